# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that writes to etcd all the time, and knows afterwards what was acknowledged and how long nothing was.

With a password it is etcd's user root, and logs in again when a member has forgotten it.

python tests/support/etcd_writer.py SECONDS CA CERT KEY ENDPOINT...
"""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from dataclasses import dataclass, field

import requests

PREFIX = "/writer/"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass
class Writer:
    """Writes numbered keys, each of which is there for good once a member has said so.

    :ivar acknowledged: numbers that a member has taken
    :ivar pause: longest time between two of them, or between the last one and the end, in seconds
    """

    endpoints: list[str]
    certificate: tuple[str, str]
    authority: str
    rate: float = 50.0
    password: str = field(default="", repr=False)
    acknowledged: list[int] = field(default_factory=list)
    pause: float = 0.0
    failures: int = 0

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._last = 0.0  # when a key was acknowledged, by the monotonic clock
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = self.authority
        self._session.cert = self.certificate

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)
        self.pause = max(self.pause, time.monotonic() - self._last if self._last else 0.0)

    def _post(self, endpoint: str, path: str, body: object, timeout: float) -> requests.Response:
        answer = self._session.post(f"{endpoint}/v3{path}", json=body, timeout=timeout)
        if answer.status_code not in (400, 401) or not self.password:
            return answer
        # No token yet, or one that this member does not know; etcd has done nothing. Who sends such a token to etcd 3.4
        # cannot even log in.
        self._session.headers.pop("Authorization", None)
        login = {"name": "root", "password": self.password}
        token = self._session.post(f"{endpoint}/v3/auth/authenticate", json=login, timeout=timeout)
        if token.status_code == 200:
            self._session.headers["Authorization"] = token.json()["token"]
        return self._session.post(f"{endpoint}/v3{path}", json=body, timeout=timeout)

    def _run(self) -> None:
        number, order = 0, list(self.endpoints)
        while not self._stop.is_set():
            begun = time.monotonic()
            number += 1
            for _attempt in range(2 * len(order)):
                try:
                    body = {"key": _b64(f"{PREFIX}{number:08}"), "value": _b64(str(number))}
                    # short, as another member may answer at once
                    if self._post(order[0], "/kv/put", body, 0.5).status_code == 200:
                        now = time.monotonic()
                        self.pause = max(self.pause, now - self._last if self._last else 0.0)
                        self._last = now
                        self.acknowledged.append(number)
                        break
                except requests.RequestException:
                    pass
                self.failures += 1
                order.append(order.pop(0))
            self._stop.wait(max(0.0, 1 / self.rate - (time.monotonic() - begun)))

    def lost(self) -> list[int]:
        """Numbers that were acknowledged and are not there."""
        body = {"key": _b64(PREFIX), "range_end": _b64(PREFIX[:-1] + "0"), "keys_only": True}
        said = []
        for endpoint in self.endpoints:
            try:
                answer = self._post(endpoint, "/kv/range", body, 10)
            except requests.RequestException as error:
                said.append(str(error))
                continue
            if answer.status_code == 200:
                there = {int(base64.b64decode(item["key"])[len(PREFIX) :]) for item in answer.json().get("kvs", [])}
                return sorted(set(self.acknowledged) - there)
            said.append(f"{endpoint}: {answer.status_code} {answer.text}")
        raise RuntimeError(f"no member answers: {said}")


if __name__ == "__main__":
    seconds, ca, cert, key, *urls = sys.argv[1:]
    writer = Writer(urls, (cert, key), ca)
    writer.start()
    time.sleep(float(seconds))
    writer.stop()
    told = {
        "acknowledged": len(writer.acknowledged),
        "lost": len(writer.lost()),
        "pause": round(writer.pause, 3),
        "failures": writer.failures,
    }
    print(json.dumps(told))
