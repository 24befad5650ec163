# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An asynchronous client of etcd v3 over its JSON gateway (``/v3/``), with what fleetd needs of it and no more.

The gateway wants bytes in base64 and 64-bit integers as strings, leaves out zero values, and reports errors with a gRPC
code whose HTTP status changed between releases; all of that stays in this file. Endpoints are tried in turn, beginning
with the one that answered last. Every answer must come from the cluster that answered first and must not go back in
revisions: etcd restored from an older snapshot, or another cluster, is an error and never an empty registry.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

log = logging.getLogger(__name__)

MAX_TXN_OPS = 128
PAGE = 2000

_INVALID = 3
_PRECONDITION = 9
_UNAUTHENTICATED = 16
_EXHAUSTED = 8
_COMPACTED = 11
_RETRY_ELSEWHERE = {4, 8, 14}
"""gRPC codes after which another member may answer: deadline exceeded, resource exhausted, unavailable."""
_LOGIN = "/v3/auth/authenticate"
_UNKNOWN_TOKEN = ("permission denied", "invalid auth token")
"""What the end of a watch says when its token is none, or one that a restarted member has forgotten."""
_RENEW = "/v3/lease/keepalive"
_WRITES = ("/v3/kv/txn", "/v3/lease/grant", "/v3/lease/revoke")
FROZEN = (
    "everything on this machine stays as it is; when this is the registry that it shall follow, "
    "run fleetd --accept-registry there"
)
_NO_SPACE = (
    "; etcd takes no writes until it has space again: free some (etcdctl compact, etcdctl defrag) or raise "
    "--quota-backend-bytes, then etcdctl alarm disarm"
)

Json = dict[str, Any]


DOUBT_SECONDS = 1.0
"""How long etcd may look like another one before it is taken for one."""
RETRY_MOST = 1.0
"""Seconds between two tries to reach etcd, at most: a machine that was cut off is to be back soon."""


async def rest(delay: float) -> float:
    """Wait about ``delay`` seconds, machines differently so that they do not all return at once; the next delay."""
    await asyncio.sleep(delay * random.uniform(0.5, 1.5))
    return min(delay * 2, RETRY_MOST)


class EtcdError(Exception):
    """etcd did not do what was asked; the text names the endpoint and what it said. ``code`` is the gRPC code or -1."""

    def __init__(self, message: str, code: int = -1) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(EtcdError):
    """No endpoint answered in time. A write may or may not have happened."""


class Compacted(EtcdError):
    """The revision that a watch wanted to start from is gone: list again."""


class ForeignCluster(EtcdError):
    """Answers come from another cluster, or from an older state of this one. Nothing may be concluded from them.

    Nor may it be written to: writes would bring an older state to the revision that was seen, and make it look right.
    """


@dataclass(frozen=True)
class KV:
    key: str
    value: bytes
    create: int
    mod: int
    lease: int = 0


@dataclass(frozen=True)
class RangeResult:
    revision: int
    kvs: tuple[KV, ...]


@dataclass(frozen=True)
class TxnResult:
    succeeded: bool
    revision: int
    ranges: tuple[tuple[KV, ...], ...]
    deleted: int
    """Keys removed by all delete operations together."""


@dataclass(frozen=True)
class WatchEvent:
    key: str
    kv: KV | None
    """None when the key was deleted (or its lease ended)."""
    revision: int


@lru_cache(256)  # taking a URL apart costs a tenth of a request
def _url(endpoint: str, path: str) -> URL:
    return URL(endpoint + path)


def b64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def prefix_end(prefix: str) -> bytes:
    """The first key after all keys with this (non-empty) prefix; UTF-8 has no byte 0xFF, so the last one can grow."""
    raw = bytearray(prefix.encode())
    raw[-1] += 1
    return bytes(raw)


def op_put(key: str, value: str, lease: int = 0) -> Json:
    request: Json = {"key": b64(key), "value": b64(value)}
    if lease:
        request["lease"] = str(lease)
    return {"requestPut": request}


def op_delete(key: str, end: bytes = b"") -> Json:
    request: Json = {"key": b64(key)}
    if end:
        request["range_end"] = b64(end)
    return {"requestDeleteRange": request}


def op_get(key: str, end: bytes = b"") -> Json:
    request: Json = {"key": b64(key)}
    if end:
        request["range_end"] = b64(end)
    return {"requestRange": request}


def op_get_prefix(prefix: str) -> Json:
    return op_get(prefix, prefix_end(prefix))


def if_mod(key: str, revision: int) -> Json:
    """The key was last written at this revision; 0: the key does not exist."""
    return {"key": b64(key), "target": "MOD", "result": "EQUAL", "modRevision": str(revision)}


def if_create(key: str, revision: int) -> Json:
    """The key was created at this revision; 0: the key does not exist."""
    return {"key": b64(key), "target": "CREATE", "result": "EQUAL", "createRevision": str(revision)}


def if_value(key: str, value: str) -> Json:
    return {"key": b64(key), "target": "VALUE", "result": "EQUAL", "value": b64(value)}


def if_exists(key: str) -> Json:
    return {"key": b64(key), "target": "CREATE", "result": "GREATER", "createRevision": "0"}


def _kv(raw: Json) -> KV:
    return KV(
        key=base64.b64decode(raw["key"]).decode("utf-8", "surrogateescape"),
        value=base64.b64decode(raw.get("value", "")),
        create=int(raw.get("create_revision", 0)),
        mod=int(raw.get("mod_revision", 0)),
        lease=int(raw.get("lease", 0)),
    )


def _event(raw: Json) -> WatchEvent:
    kv = _kv(raw["kv"])
    return WatchEvent(kv.key, None if raw.get("type") == "DELETE" else kv, kv.mod)


def nearest_first(endpoints: Sequence[str], address: str) -> list[str]:
    """The endpoints, those on this machine (``address``, or loopback) first; else in the order they have.

    A member of one's own dies with the machine, and others do not hang on it.
    """
    own = (address, "127.0.0.1", "::1", "localhost")
    return sorted(endpoints, key=lambda endpoint: urlsplit(endpoint).hostname not in own)


def _keep_tcp_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel notice a dead peer of a silent stream in four seconds.

    That is less than any machine's lease, so that who watches through a machine that died hears of its end in time.
    """
    connection = response.connection
    transport = connection.transport if connection else None
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


@dataclass
class Contact:
    """What clients of one cluster share, whichever user they are: connections, and what was seen of the cluster."""

    session: aiohttp.ClientSession | None = None
    closed: bool = False
    first: int = 0
    """The endpoint that answered last."""
    cluster_id: int = 0
    revision: int = 0
    refusal: str = ""
    doubt: str = ""
    """Why, and since when, etcd seems to be another one; a second look decides."""
    doubted: float = 0.0
    unsure: bool = True
    """Contact was lost, or never made: nothing is written before something was read."""
    requests: int = 0


class Etcd:
    """One connection pool to the members of one cluster.

    ``endpoints`` are URLs; ``timeout`` is for one try at one endpoint, in seconds. All tries of a call together take no
    longer than twice that, however many endpoints there are. With a ``username`` requests are that user's; a cluster
    whose authentication is off takes them all the same, and may be told to use it at any time.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: ssl.SSLContext | None = None,
        timeout: float = 2.0,
        username: str = "",
        password: str = "",
    ) -> None:
        if not endpoints:
            raise ValueError("etcd_servers is empty: give at least one URL")
        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        self._tls = tls
        self._timeout = timeout
        self._username = username
        self._password = password
        self._token = ""
        self._login = asyncio.Lock()
        self._login_failed: Unreachable | None = None
        self._anonymous = False
        """The cluster's authentication was off when it was asked for a token."""
        self.probe = "\0"
        """The key that is read to see what etcd it is; users are allowed to read some keys only."""
        self._contact = Contact()

    def as_user(self, username: str, password: str) -> Etcd:
        """The same client, connections and knowledge of the cluster included, as another user."""
        twin = Etcd(self._endpoints, self._tls, self._timeout, username, password)
        twin.probe, twin._contact = self.probe, self._contact
        return twin

    @property
    def cluster_id(self) -> int:
        """0 until the first answer, or set beforehand to the cluster that must answer."""
        return self._contact.cluster_id

    @cluster_id.setter
    def cluster_id(self, number: int) -> None:
        self._contact.cluster_id = number

    @property
    def revision(self) -> int:
        """The highest revision seen; an answer below it is an error."""
        return self._contact.revision

    @revision.setter
    def revision(self, number: int) -> None:
        self._contact.revision = number

    @property
    def refusal(self) -> str:
        """Why nothing may be asked at all but to renew leases, or "". Only an operator takes it back."""
        return self._contact.refusal

    @refusal.setter
    def refusal(self, text: str) -> None:
        self._contact.refusal = text

    @property
    def requests(self) -> int:
        """Requests sent, for the metrics."""
        return self._contact.requests

    async def close(self) -> None:
        """Connections end. Who asks afterwards, a task that ends late for one, gets Unreachable."""
        self._contact.closed = True
        if self._contact.session is not None:
            await self._contact.session.close()
            self._contact.session = None

    def _client(self) -> aiohttp.ClientSession:
        if self._contact.closed:
            raise Unreachable("the connection to etcd was closed")
        if self._contact.session is None:
            # With TLS switched off (tests) the connector takes True: the default context is never used for http URLs.
            connector = aiohttp.TCPConnector(ssl=self._tls if self._tls else None, limit=64)  # type: ignore[arg-type]
            # Limits of time are asyncio.timeout's here: aiohttp 3.8's own leave the task marked as cancelled, and the
            # next asyncio.timeout in it that ends, wherever that is, cancels it for good.
            no_limit = aiohttp.ClientTimeout(total=None)
            self._contact.session = aiohttp.ClientSession(connector=connector, timeout=no_limit)
        return self._contact.session

    def _order(self) -> list[int]:
        count = len(self._endpoints)
        return [(self._contact.first + step) % count for step in range(count)]

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    async def _authenticate(self, refused: str = "") -> None:
        """Get a token in place of the one ``refused``, unless somebody has meanwhile: each costs etcd much time.

        A cluster whose authentication is off gives none and wants none. Who waited while somebody else tried and nobody
        answered is told that, and does not wait once more.
        """
        failed = self._login_failed
        async with self._login:
            if self._token != refused:
                return
            if self._login_failed is not failed:
                raise Unreachable(str(self._login_failed))
            try:
                await self._log_in()
            except Unreachable as exc:
                self._login_failed = exc
                raise

    async def _log_in(self) -> None:
        self._token = ""
        try:
            answer = await self._call(_LOGIN, {"name": self._username, "password": self._password})
        except EtcdError as exc:
            if exc.code != _PRECONDITION or "not enabled" not in str(exc):
                raise
            self._anonymous = True
        else:
            self._anonymous = False
            self._token = str(answer.get("token", ""))

    def _drop(self, token: str) -> None:
        """Forget a token with which nobody answered in time, unless there is another one by now.

        A token names the revision at which it was made, and an etcd that is behind that holds the request back until it
        gets there. One that was emptied or restored may be behind for hours, and refuses the token only then.
        """
        if self._token == token:
            self._token = ""

    def _needs_token(self, exc: EtcdError) -> bool:
        """Whether etcd refused a request because of its token: none, one that it has forgotten, or an outdated one."""
        if not self._username:
            return False
        text = str(exc)
        return exc.code == _UNAUTHENTICATED or (
            exc.code == _INVALID and ("user name is empty" in text or "auth store is old" in text)
        )

    async def _post(self, endpoint: str, path: str, body: Json, seconds: float) -> Json:
        self._contact.requests += 1
        async with (
            asyncio.timeout(seconds),
            self._client().post(
                _url(endpoint, path), data=json.dumps(body, separators=(",", ":")), headers=self._headers()
            ) as response,
        ):
            text = await response.text("utf-8", "replace")
        return self._answer(endpoint, response.status, text)

    def _answer(self, endpoint: str, status: int, text: str) -> Json:
        try:
            answer = json.loads(text)
        except ValueError:
            raise Unreachable(f"{endpoint} answered {status} with something that is not JSON: {text[:80]!r}") from None
        if not isinstance(answer, dict):
            raise Unreachable(f"{endpoint} answered {status} with a JSON {type(answer).__name__}")
        if status != 200 or "code" in answer:
            raise self._error(endpoint, answer)
        return answer

    def _error(self, endpoint: str, answer: Json) -> EtcdError:
        code = int(answer.get("code") or answer.get("grpc_code") or -1)
        message = str(answer.get("message") or answer.get("error") or answer)
        kind = Compacted if code == _COMPACTED else EtcdError
        cure = _NO_SPACE if code == _EXHAUSTED and "space" in message else ""
        return kind(f"{endpoint} says: {message}{cure}", code)

    def _check_header(self, endpoint: str, answer: Json, *, linearizable: bool) -> int:
        # A renewal of a lease is a stream, whose answers are wrapped.
        header = answer.get("header") or answer.get("result", {}).get("header") or {}
        cluster = int(header.get("cluster_id", 0))
        revision = int(header.get("revision", 0))
        if cluster and not self.cluster_id:
            self.cluster_id = cluster
        if cluster and cluster != self.cluster_id:
            raise self._foreign(
                f"{endpoint} belongs to etcd cluster {cluster:x}, this machine to {self.cluster_id:x}; {FROZEN}"
            )
        if linearizable and revision and revision < self.revision:
            raise self._foreign(
                f"{endpoint} is at revision {revision} after {self.revision} was seen: etcd went back in time "
                f"(restored from a snapshot?); {FROZEN}"
            )
        self.revision = max(self.revision, revision)
        if linearizable:
            self._contact.doubt, self._contact.unsure = "", False
        return revision

    def _foreign(self, text: str) -> ForeignCluster:
        """Doubt at first, as old releases of etcd may answer with the past when they were paused; then refuse."""
        moment = time.monotonic()
        self._contact.unsure = True
        if not self._contact.doubt:
            self._contact.doubted = moment
        elif moment - self._contact.doubted > DOUBT_SECONDS and not self.refusal:
            self.refusal = text
            log.error("%s", text)
        self._contact.doubt = text
        return ForeignCluster(text)

    def accept(self) -> None:
        """Forget which cluster and revision were seen: what answers next counts."""
        self.cluster_id, self.revision, self.refusal, self._contact.doubt, self._contact.unsure = 0, 0, "", "", True

    def _refuse(self) -> None:
        if self.refusal:
            raise ForeignCluster(self.refusal)

    async def _call(self, path: str, body: Json, *, linearizable: bool = True) -> Json:
        """Ask the endpoints in turn until one answers; raises :class:`Unreachable` with the last reason."""
        if path != _RENEW:
            self._refuse()
        if self._username and not self._token and not self._anonymous and path != _LOGIN:
            await self._authenticate()
        if self._contact.unsure and path in _WRITES:
            await self.confirm(self.probe)
        last: Exception = Unreachable("no endpoint")
        order = self._order()
        first, late = self._token, False
        end = time.monotonic() + 2 * self._timeout
        for number, index in enumerate(order):
            endpoint = self._endpoints[index]
            before, token = self.revision, self._token
            seconds = min(self._timeout, max(0.1, end - time.monotonic()) / (len(order) - number))
            try:
                answer = await self._post(endpoint, path, body, seconds)
            except EtcdError as exc:
                self._contact.unsure = self._contact.unsure or isinstance(exc, Unreachable)
                if path != _LOGIN and self._needs_token(exc):
                    await self._authenticate(token)
                    answer = await self._post(endpoint, path, body, seconds)
                elif exc.code in _RETRY_ELSEWHERE or isinstance(exc, Unreachable):
                    last = exc
                    continue
                else:
                    raise
            except (TimeoutError, aiohttp.ClientError, OSError) as exc:
                last = Unreachable(f"{endpoint} did not answer: {str(exc) or type(exc).__name__}")
                self._contact.unsure = True
                late = late or isinstance(exc, TimeoutError)
                continue
            self._contact.first = index
            # Two calls under way may answer in either order: only what was known when this one was sent binds it.
            known, self.revision = self.revision, before
            try:
                self._check_header(endpoint, answer, linearizable=linearizable)
            finally:
                self.revision = max(known, self.revision)
            return answer
        if late:
            self._drop(first)
        raise Unreachable(str(last))

    async def get(self, key: str) -> KV | None:
        result = await self.range(key)
        return result.kvs[0] if result.kvs else None

    async def confirm(self, key: str) -> None:
        """Raise :class:`ForeignCluster` when etcd is not the one that was read before, or is in an older state.

        To be called before a watch goes on at a revision: etcd takes a watch from a revision that it has not reached.
        """
        await self.range(key)

    async def range(
        self, key: str, end: bytes = b"", limit: int = 0, revision: int = 0, keys_only: bool = False
    ) -> RangeResult:
        body: Json = {"key": b64(key)}
        if keys_only:
            body["keys_only"] = True
        if end:
            body["range_end"] = b64(end)
        if limit:
            body["limit"] = str(limit)
        if revision:
            body["revision"] = str(revision)
        answer = await self._call("/v3/kv/range", body)
        header = int(answer["header"]["revision"])
        return RangeResult(header, tuple(_kv(raw) for raw in answer.get("kvs", ())))

    async def prefix(self, prefix: str, keys_only: bool = False) -> RangeResult:
        """All keys with the prefix at one revision, read in pages; ``keys_only``: without values."""
        end = prefix_end(prefix)
        result = await self.range(prefix, end, PAGE, 0, keys_only)
        kvs = list(result.kvs)
        page = result
        while len(page.kvs) == PAGE:
            page = await self.range(kvs[-1].key + "\0", end, PAGE, result.revision, keys_only)
            kvs.extend(page.kvs)
        return RangeResult(result.revision, tuple(kvs))

    async def txn(self, compares: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()) -> TxnResult:
        body: Json = {"compare": list(compares), "success": list(success), "failure": list(failure)}
        answer = await self._call("/v3/kv/txn", body)
        ranges: list[tuple[KV, ...]] = []
        deleted = 0
        for response in answer.get("responses", ()):
            if "response_range" in response:
                ranges.append(tuple(_kv(raw) for raw in response["response_range"].get("kvs", ())))
            deleted += int(response.get("response_delete_range", {}).get("deleted", 0))
        revision = int(answer["header"]["revision"])
        return TxnResult(bool(answer.get("succeeded", False)), revision, tuple(ranges), deleted)

    async def lease_grant(self, ttl: int) -> int:
        answer = await self._call("/v3/lease/grant", {"TTL": str(ttl)}, linearizable=False)
        return int(answer["ID"])

    async def lease_keepalive(self, lease: int) -> int:
        """Renew; returns the seconds to live that etcd granted, 0 when the lease is gone."""
        answer = await self._call(_RENEW, {"ID": str(lease)}, linearizable=False)
        return int(answer.get("result", {}).get("TTL", 0))

    async def lease_revoke(self, lease: int) -> None:
        await self._call("/v3/lease/revoke", {"ID": str(lease)}, linearizable=False)

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[tuple[WatchEvent, ...]]:
        """Batches of changes below the prefix from ``revision`` on, in order.

        Ends with :class:`EtcdError` when the stream is lost: watch again from the revision after the last batch, or, on
        :class:`Compacted`, list again. The member ends the stream itself when it has no leader any more.
        """
        body = {
            "create_request": {
                "key": b64(prefix),
                "range_end": b64(prefix_end(prefix)),
                "start_revision": str(revision),
            }
        }
        self._refuse()
        if self._username and not self._token and not self._anonymous:
            await self._authenticate()
        last: Exception = Unreachable("no endpoint")
        token, late = self._token, False
        for index in self._order():
            endpoint = self._endpoints[index]
            try:
                async with asyncio.timeout(self._timeout):
                    response = await self._open_stream(endpoint, body)
            except EtcdError as exc:
                if self._needs_token(exc):
                    self._token, self._anonymous = "", False
                last = exc
                continue
            except (TimeoutError, aiohttp.ClientError, OSError) as exc:
                last = Unreachable(f"{endpoint} did not answer: {str(exc) or type(exc).__name__}")
                late = late or isinstance(exc, TimeoutError)
                continue
            try:
                async with response:
                    async for batch in self._batches(endpoint, response):
                        yield batch
            except EtcdError as exc:
                if self._username and any(said in str(exc) for said in _UNKNOWN_TOKEN):
                    self._token, self._anonymous = "", False
                # Cut off from the others it would take the next watch and end it again.
                self._contact.first = (index + 1) % len(self._endpoints)
                raise
            raise Unreachable(f"{endpoint} ended the watch")
        if late:
            self._drop(token)
        raise Unreachable(str(last))

    async def _open_stream(self, endpoint: str, body: Json) -> aiohttp.ClientResponse:
        headers = {**self._headers(), "Grpc-Metadata-hasleader": "true"}
        self._contact.requests += 1
        response = await self._client().post(
            endpoint + "/v3/watch",
            data=json.dumps(body),
            headers=headers,
            read_bufsize=2**22,
        )
        if response.status != 200:
            text = await response.text("utf-8", "replace")
            response.close()
            self._answer(endpoint, response.status, text)
        _keep_tcp_alive(response)
        return response

    async def _batches(self, endpoint: str, response: aiohttp.ClientResponse) -> AsyncIterator[tuple[WatchEvent, ...]]:
        try:
            async for line in _lines(response):
                answer = json.loads(line)
                if "error" in answer:
                    error = answer["error"]
                    raise self._error(endpoint, error if isinstance(error, dict) else answer)
                result = answer.get("result", {})
                self._check_header(endpoint, result, linearizable=False)
                if result.get("canceled"):
                    self._raise_canceled(endpoint, result)
                if result.get("created"):
                    yield ()
                if result.get("events"):
                    yield tuple(_event(raw) for raw in result["events"])
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as exc:
            raise Unreachable(f"{endpoint} broke the watch: {str(exc) or type(exc).__name__}") from None

    def _raise_canceled(self, endpoint: str, result: Json) -> None:
        reason = str(result.get("cancel_reason", "no reason given"))
        if int(result.get("compact_revision", 0)):
            raise Compacted(f"{endpoint}: the watch starts before compacted revision {result['compact_revision']}")
        raise EtcdError(f"{endpoint} cancelled the watch: {reason}")


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: ``StreamReader.readline`` refuses lines longer than its buffer."""
    parts: list[bytes] = []
    async for chunk in response.content.iter_any():
        head, newline, rest = chunk.partition(b"\n")
        while newline:
            parts.append(head)
            yield b"".join(parts)
            parts = []
            head, newline, rest = rest.partition(b"\n")
        parts.append(head)
