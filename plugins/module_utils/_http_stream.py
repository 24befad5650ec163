# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Answers that come line by line, some of them without an end."""

from __future__ import annotations

import queue
import threading
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    HttpClient,
    HttpError,
    Overdue,
    Reply,
    bounded,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http_failure import explain, slow

if t.TYPE_CHECKING:
    import requests


class LineStream:
    """Lines of an endless answer, read beside the caller so that waiting for one can be bounded.

    The reader ends with the stream or with the process: a blocked read cannot be called off cleanly.
    """

    _LONGEST = 1_000_000

    def __init__(self, asked: str, response: requests.Response) -> None:
        self.asked = asked
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
        self._ended = False
        threading.Thread(target=self._read, args=(response,), daemon=True).start()

    def _read(self, response: requests.Response) -> None:
        try:
            while True:
                line = response.raw.readline(self._LONGEST)
                if not line:
                    break
                # an empty one only shows that the stream lives
                if line.strip():
                    self._lines.put(line)
        except Exception:
            # whatever ended the stream, its end is all that the other side needs
            pass
        finally:
            response.close()
            self._lines.put(None)

    @property
    def ended(self) -> bool:
        """Whether the server has closed the stream and all its lines were taken."""
        return self._ended

    def wait(self, seconds: float) -> bool:
        """Waits for one line at most so long, and takes all that have come by then; False when none came."""
        if self._ended:
            return False
        try:
            line = self._lines.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        while line is not None:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return True
        self._ended = True
        return True


class StreamClient(HttpClient):
    """A client whose answers can also be had line by line, each such answer on a connection of its own."""

    def rows(
        self,
        path: str,
        payload: dict[str, t.Any],
        *,
        headers: t.Mapping[str, str] | None = None,
        silence: float | None = None,
    ) -> Reply | t.Iterator[bytes]:
        """Posts, and hands out the lines of the answer as they come; whole answers may be larger than memory.

        :param silence: seconds that may pass without a byte, the time-out of a request if not given
        :returns: the whole reply when its status is not 200
        :raises HttpError: here or from the iterator, when no answer or not all of it came
        """
        asked = f"POST {self.base}{path}"
        session = self._new_session()
        left = self._deadline.left() if self._deadline is not None else self._timeout
        seconds = min(self._timeout, left)
        if seconds <= 0:
            raise slow(asked, 0, sent=False)
        quiet = min(seconds if silence is None else silence, left)
        try:
            response = self._send(session, "POST", path, payload, headers, seconds, read_timeout=quiet)
            if response.status_code != 200:
                with response:
                    content_type = response.headers.get("Content-Type", "")
                    return Reply(asked, response.status_code, content_type, self._body(asked, response))
        except HttpError:
            raise
        except Exception as error:  # as in request()
            raise explain(asked, error, quiet, self.base) from error
        return self._split(asked, response, quiet)

    def _split(self, asked: str, response: requests.Response, quiet: float) -> t.Iterator[bytes]:
        rest = b""
        with response:
            try:
                for part in response.iter_content(None):
                    *lines, rest = (rest + part).split(b"\n")
                    yield from (line for line in lines if line.strip())
                    if self._deadline is not None and self._deadline.passed:
                        raise slow(asked, self._deadline.seconds, sent=True)
            except (HttpError, GeneratorExit):
                raise
            except Exception as error:  # as in request()
                raise explain(asked, error, quiet, self.base) from error
        if rest.strip():
            yield rest

    def lines(self, path: str) -> LineStream | None:
        """Opens an endless answer of lines, on a connection of its own; None when the server has no such thing."""
        asked = f"GET {self.base}{path}"
        session = self._new_session()

        def ask() -> requests.Response | None:
            response = self._send(session, "GET", path, None, None, self._timeout, read_timeout=None)
            if response.status_code == 200:
                return response
            response.close()
            return None

        try:
            response = bounded(self._timeout, ask)
        except (Overdue, Exception):
            return None
        return None if response is None else LineStream(asked, response)
