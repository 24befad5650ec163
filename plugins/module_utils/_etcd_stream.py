# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What etcd answers part by part: watches, and snapshots."""

from __future__ import annotations

import base64
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    EtcdClient,
    EtcdError,
    Fields,
    passing,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_refusal import (
    refusal,
    refusal_in_stream,
    unavailable,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError, HttpError, Reply
from ansible_collections.flotilla.cluster.plugins.module_utils._http_stream import StreamClient


def watch_body(key: bytes, revision: int) -> dict[str, t.Any]:
    """The body of a watch of one key, from a revision on."""
    return {"create_request": {"key": base64.b64encode(key).decode("ascii"), "start_revision": str(revision)}}


class EtcdStreamClient(EtcdClient):
    """A client that can also ask for streams."""

    _http = StreamClient

    def stream(
        self,
        path: str,
        body: dict[str, t.Any],
        *,
        endpoint: str | None = None,
        silence: float | None = None,
    ) -> t.Iterator[Fields]:
        """The results of a streaming request, one by one; from the first member that sends any.

        :param silence: seconds that a member may send nothing
        :raises EtcdError: when a member refuses
        :raises EtcdUnavailable: when none answers
        :raises HttpError: when the stream breaks off
        """
        failures: dict[str, ClusterError] = {}
        for url in [endpoint] if endpoint else list(self._order):
            begun = False
            try:
                for result in self._results(url, path, body, silence):
                    begun = True
                    yield result
                return
            except (HttpError, EtcdError) as error:
                if begun or not passing(error):
                    raise
                self._move_back(url)
                failures[url] = error
        raise unavailable(path, failures)

    def _results(self, url: str, path: str, body: dict[str, t.Any], silence: float | None) -> t.Iterator[Fields]:
        if self._username and not self._authenticated:
            self._authenticate(url)
        client = t.cast(StreamClient, self._client(url))
        headers = {"Authorization": self._token} if self._token else None
        rows = client.rows(f"/v3{path}", body, headers=headers, silence=silence)
        if isinstance(rows, Reply):
            raise refusal(rows)
        for row in rows:
            reply = Reply(f"POST {url}/v3{path}", 200, "", row)
            data = reply.json_object()
            if "error" in data:
                raise refusal_in_stream(reply, data)
            yield Fields(reply, data).object("result")
