# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""The one etcd client of the modules: etcd's API v3 through its JSON gateway below C(/v3/).

Works with etcd 3.4 and later. Keys and values are bytes, revisions and ids are ints; the gateway's
base64 and numbers-as-strings stay inside this file. Errors are told apart by gRPC code only: the HTTP
status of one and the same error differs between etcd's versions.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    Deadline,
    HttpClient,
    HttpError,
    OptionError,
    Reply,
    Tls,
    base_url,
    check_seconds,
    printable,
)

# The documentation that belongs to it: plugins/doc_fragments/_etcd.py.
ETCD_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "endpoints": {"type": "list", "elements": "str", "default": ["https://127.0.0.1:2379"]},
    "ca_cert": {"type": "path", "default": "/etc/flotilla/pki/etcd-client-ca.crt"},
    "client_cert": {"type": "path", "default": "/etc/flotilla/pki/etcd-client.crt"},
    # the path is no secret, and hiding it would hide it in error messages
    "client_key": {"type": "path", "default": "/etc/flotilla/pki/etcd-client.key", "no_log": False},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "request_timeout": {"type": "float", "default": 5.0},
    "timeout": {"type": "float", "default": 30.0},
}
ETCD_REQUIRED_TOGETHER = [("username", "password")]

# etcd's defaults are 128 operations (--max-txn-ops) and 1.5 MiB (--max-request-bytes) with all framing
MAX_TXN_OPERATIONS = 128
MAX_TXN_BYTES = 1_400_000
# keys of one page when a whole prefix is read
PAGE_KEYS = 1000

_MAX_ANSWER_BYTES = 256_000_000
_ROUNDS = 3
_ROUND_PAUSE = 0.3
# seconds after which etcd has committed what it was writing; it does so every 0.1 s
_COMMITTED = 0.3

# gRPC codes
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
UNAVAILABLE = 14
UNAUTHENTICATED = 16


class EtcdError(ClusterError):
    """An answer of etcd that is an error.

    :ivar code: gRPC code
    :ivar message: etcd's own words
    """

    def __init__(self, asked: str, code: int, message: str, fix: str) -> None:
        super().__init__(f"{asked}: etcd answered {message!r} (gRPC code {code}); {fix}")
        self.code = code
        self.message = message
        self.fix = fix


class EtcdUnavailable(ClusterError):
    """No endpoint gave an answer; nothing was changed by the request."""


class EtcdUncertain(ClusterError):
    """A write was sent, and no answer tells whether it was done. To be read before it is tried again."""


@dataclass(frozen=True)
class KeyValue:
    """One key as etcd stores it. C(lease) is 0 when it has none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True)
class RangeResult:
    """Keys in order. C(count) is the number in the whole range, C(more) says that a limit cut them."""

    kvs: tuple[KeyValue, ...]
    count: int
    more: bool
    revision: int


@dataclass(frozen=True)
class DeleteResult:
    deleted: int
    revision: int


@dataclass(frozen=True)
class TxnResult:
    """C(ranges) has the result of each range operation of the branch that was taken, in its order."""

    succeeded: bool
    revision: int
    ranges: tuple[RangeResult, ...]


@dataclass(frozen=True)
class Member:
    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool

    @property
    def started(self) -> bool:
        """A member that was added but never ran has no name yet."""
        return bool(self.name)


@dataclass(frozen=True)
class Status:
    """What one member says of itself; C(leader) is 0 when it knows none."""

    endpoint: str
    member_id: int
    version: str
    db_size: int
    leader: int
    revision: int
    raft_index: int
    raft_applied_index: int
    raft_term: int
    is_learner: bool
    errors: tuple[str, ...]
    db_size_in_use: int = 0
    # since etcd 3.6; 0 before
    db_size_quota: int = 0


@dataclass(frozen=True)
class Alarm:
    """:ivar kind: NOSPACE or CORRUPT"""

    member_id: int
    kind: str


Operation = dict[str, t.Any]
Compare = dict[str, t.Any]


def prefix_end(prefix: bytes) -> bytes:
    """The key after all that begin with the prefix; C(\\x00), etcd's "to the end", when there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        if prefix[index] < 0xFF:
            return prefix[:index] + bytes([prefix[index] + 1])
    return b"\x00"


def range_operation(
    key: bytes,
    range_end: bytes = b"",
    *,
    limit: int = 0,
    revision: int = 0,
    keys_only: bool = False,
    count_only: bool = False,
) -> dict[str, t.Any]:
    """The body of a range request; sorted by key."""
    body: dict[str, t.Any] = {"key": _b64(key)}
    if range_end:
        body["range_end"] = _b64(range_end)
    if limit:
        body["limit"] = str(limit)
    if revision:
        body["revision"] = str(revision)
    if keys_only:
        body["keys_only"] = True
    if count_only:
        body["count_only"] = True
    return body


def request_range(key: bytes, range_end: bytes = b"", *, keys_only: bool = False) -> Operation:
    """A range as an operation of a transaction."""
    return {"request_range": range_operation(key, range_end, keys_only=keys_only)}


def request_put(key: bytes, value: bytes, lease: int = 0) -> Operation:
    """A put as an operation of a transaction."""
    return {"request_put": _put_body(key, value, lease)}


def request_delete(key: bytes, range_end: bytes = b"") -> Operation:
    """A deletion as an operation of a transaction."""
    body = {"key": _b64(key)}
    if range_end:
        body["range_end"] = _b64(range_end)
    return {"request_delete_range": body}


def watch_body(key: bytes, revision: int) -> dict[str, t.Any]:
    """The body of a watch of one key, from a revision on."""
    return {"create_request": {"key": _b64(key), "start_revision": str(revision)}}


def unmodified(key: bytes, mod_revision: int) -> Compare:
    """Holds when the key still has this revision; 0: when it does not exist."""
    return {"key": _b64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(mod_revision)}


def unmodified_since(key: bytes, range_end: bytes, revision: int) -> Compare:
    """Holds when no key of the range was created or changed after the revision; deletions are not seen."""
    return {
        "key": _b64(key),
        "range_end": _b64(range_end),
        "target": "MOD",
        "result": "LESS",
        "mod_revision": str(revision + 1),
    }


def operation_bytes(*parts: bytes) -> int:
    """Size of an operation with its compare, from above: keys and values plus etcd's framing."""
    return sum(len(part) for part in parts) + 100


_Item = t.TypeVar("_Item")


def cut(items: t.Sequence[_Item], size: t.Callable[[_Item], int]) -> list[list[_Item]]:
    """Cuts items into transactions of at most 128 operations and 1.4 MB, in their order.

    An item that is too large by itself gets a transaction of its own: only the server knows its limit.
    """
    batches: list[list[_Item]] = []
    room = 0
    for item in items:
        need = size(item)
        if not batches or need > room or len(batches[-1]) >= MAX_TXN_OPERATIONS:
            batches.append([])
            room = MAX_TXN_BYTES
        batches[-1].append(item)
        room -= need
    return batches


class EtcdClient:
    """Speaks to one cluster through any of its members.

    The endpoint that answered last is asked first. Connections are kept, and so is the token when there is
    a user: one is fetched for the first request, and once more if the members forget it.
    """

    def __init__(
        self,
        endpoints: t.Sequence[str],
        *,
        tls: Tls | None = None,
        username: str | None = None,
        password: str | None = None,
        request_timeout: float = 5.0,
        timeout: float = 30.0,
        http: type[HttpClient] = HttpClient,
    ) -> None:
        """
        :param request_timeout: seconds for one try at one endpoint
        :param timeout: seconds for all requests of this client together
        :raises OptionError: for an endpoint or a time that cannot be
        """
        if not endpoints:
            raise OptionError("endpoints is empty; give the client URL of one member at least")
        check_seconds("request_timeout", request_timeout)
        check_seconds("timeout", timeout)
        urls = [base_url("endpoints", endpoint) for endpoint in endpoints]
        self._deadline = Deadline(timeout)
        # a name given twice is asked once
        self._clients = {
            url: http(
                url,
                tls=tls,
                timeout=request_timeout,
                deadline=self._deadline,
                max_body=_MAX_ANSWER_BYTES,
            )
            for url in urls
        }
        self._order = list(self._clients)
        self._username = username
        self._password = password
        self._token: str | None = None
        self._authenticated = False

    @property
    def endpoints(self) -> list[str]:
        """The endpoints, the one that is asked next first."""
        return list(self._order)

    @property
    def is_user(self) -> bool:
        """Whether the last requests were a user's, which is only so with the cluster's authentication on."""
        return self._token is not None

    @property
    def deadline(self) -> Deadline:
        return self._deadline

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    # -- keys and values

    def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        count_only: bool = False,
    ) -> RangeResult:
        """Reads one key, or the keys from C(key) up to but not including C(range_end)."""
        body = range_operation(
            key, range_end, limit=limit, revision=revision, keys_only=keys_only, count_only=count_only
        )
        return _range_result(self.call("/kv/range", body))

    def read_prefix(self, prefix: bytes, *, keys_only: bool = False, revision: int = 0, limit: int = 0) -> RangeResult:
        """Reads all keys below a prefix at one revision, page by page.

        :param limit: greatest number of keys to return, 0 for all
        """
        end = prefix_end(prefix)
        start = prefix
        found: list[KeyValue] = []
        count = 0
        while True:
            room = limit - len(found) if limit else PAGE_KEYS
            page = self.range(start, end, limit=min(PAGE_KEYS, room), revision=revision, keys_only=keys_only)
            if not found:
                count = page.count
                revision = revision or page.revision
            found += page.kvs
            if not page.more or not page.kvs or (limit and len(found) >= limit):
                return RangeResult(tuple(found), count, len(found) < count, revision)
            start = page.kvs[-1].key + b"\x00"

    def read_keys(
        self, keys: t.Sequence[bytes], *, keys_only: bool = False
    ) -> tuple[dict[bytes, KeyValue | None], int]:
        """Reads many keys, 128 to a request; None stands for a key that does not exist.

        :returns: the keys, and the store's revision when the first of them were read
        """
        found: dict[bytes, KeyValue | None] = {}
        revision = 0
        for batch in cut(keys, operation_bytes):
            result = self.txn([], [request_range(key, keys_only=keys_only) for key in batch])
            revision = revision or result.revision
            for key, answer in zip(batch, result.ranges):
                found[key] = answer.kvs[0] if answer.kvs else None
        return found, revision

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        """Writes one key, whatever it holds.

        :returns: the revision of the write
        :raises EtcdUncertain: when it may have been done
        """
        answer = self.call("/kv/put", _put_body(key, value, lease), write=True)
        return answer.object("header").integer("revision")

    def delete(self, key: bytes, range_end: bytes = b"") -> DeleteResult:
        """Deletes one key, or a range.

        :raises EtcdUncertain: when it may have been done
        """
        body = request_delete(key, range_end)["request_delete_range"]
        answer = self.call("/kv/deleterange", body, write=True)
        return DeleteResult(answer.integer("deleted"), answer.object("header").integer("revision"))

    def txn(
        self,
        compares: t.Sequence[Compare],
        success: t.Sequence[Operation],
        failure: t.Sequence[Operation] = (),
    ) -> TxnResult:
        """Does C(success) when all compares hold, else C(failure), as one.

        :raises EtcdUncertain: when it writes, and may have been done
        """
        body: dict[str, t.Any] = {}
        if compares:
            body["compare"] = list(compares)
        if success:
            body["success"] = list(success)
        if failure:
            body["failure"] = list(failure)
        writes = any("request_range" not in operation for operation in (*success, *failure))
        answer = self.call("/kv/txn", body, write=writes)
        succeeded = answer.flag("succeeded")
        expected = success if succeeded or not compares else failure
        responses = answer.objects("responses")
        if len(responses) != len(expected):
            raise answer.wrong("responses", f"{len(expected)} of them, not {len(responses)}")
        ranges = tuple(
            _range_result(response.object("response_range"))
            for operation, response in zip(expected, responses)
            if "request_range" in operation
        )
        return TxnResult(succeeded, answer.object("header").integer("revision"), ranges)

    # -- leases

    def lease_grant(self, lease: int, ttl: int) -> int:
        """Makes a lease with an id that the caller has chosen; returns its seconds, at least what etcd allows."""
        # not a write: one that is there twice, or for nothing, ends by itself
        try:
            return self.call("/lease/grant", {"ID": str(lease), "TTL": str(ttl)}).integer("TTL")
        except EtcdError as error:
            if error.code == FAILED_PRECONDITION and "already exists" in error.message:
                # made by a request whose answer was lost
                return self.lease_ttl(lease)
            raise

    def lease_revoke(self, lease: int) -> None:
        """Ends a lease, and with it all keys that are bound to it."""
        self.call("/lease/revoke", {"ID": str(lease)})

    def lease_ttl(self, lease: int) -> int:
        """The seconds that a lease was granted, 0 for one that is no longer there."""
        return self.call("/lease/timetolive", {"ID": str(lease)}).integer("grantedTTL")

    def lease_renew(self, lease: int) -> bool:
        """Starts the time of a lease anew; False when it is no longer there."""
        return any(result.integer("TTL") > 0 for result in self.stream("/lease/keepalive", {"ID": str(lease)}))

    # -- the cluster

    def member_list(self) -> list[Member]:
        """The members, by name."""
        answer = self.call("/cluster/member/list", {})
        members = [
            Member(
                id=item.integer("ID"),
                name=item.text("name"),
                peer_urls=tuple(item.texts("peerURLs")),
                client_urls=tuple(item.texts("clientURLs")),
                is_learner=item.flag("isLearner"),
            )
            for item in answer.objects("members")
        ]
        return sorted(members, key=lambda member: (member.name, member.id))

    def status(self, endpoint: str | None = None) -> Status:
        """What one member says of itself; without an endpoint the one that answers first."""
        answer = self.call("/maintenance/status", {}, endpoint=endpoint)
        header = answer.object("header")
        return Status(
            endpoint=endpoint or self._order[0],
            member_id=header.integer("member_id"),
            version=answer.text("version"),
            db_size=answer.integer("dbSize"),
            leader=answer.integer("leader"),
            revision=header.integer("revision"),
            raft_index=answer.integer("raftIndex"),
            raft_applied_index=answer.integer("raftAppliedIndex"),
            raft_term=answer.integer("raftTerm"),
            is_learner=answer.flag("isLearner"),
            errors=tuple(answer.texts("errors")),
            db_size_in_use=answer.integer("dbSizeInUse"),
            db_size_quota=answer.integer("dbSizeQuota"),
        )

    def alarms(self) -> list[Alarm]:
        """The alarms that are on, each with the member that raised it."""
        answer = self.call("/maintenance/alarm", {"action": "GET"})
        return [Alarm(item.integer("memberID"), item.text("alarm")) for item in answer.objects("alarms")]

    def hash_kv(self, revision: int) -> tuple[int, int]:
        """Hash of the member's keys and values up to a revision, and the revision that it was compacted to.

        Members that agree on both hold the same data. From etcd 3.5 on.
        """
        answer = self.call("/maintenance/hashkv", {"revision": str(revision)})
        return answer.integer("hash"), answer.integer("compact_revision")

    def metric(self, name: str) -> float:
        """A metric without labels of the member that is asked first, 0 when it has none of that name."""
        reply = self._client(self._order[0]).request("GET", "/metrics")
        found = re.search(rf"^{re.escape(name)} (\S+)$", reply.body.decode("utf-8", "replace"), re.MULTILINE)
        try:
            value = float(found[1]) if found and reply.status == 200 else 0.0
        except ValueError:
            return 0.0
        return value if math.isfinite(value) else 0.0

    # -- requests

    def call(
        self,
        path: str,
        body: dict[str, t.Any],
        *,
        write: bool = False,
        endpoint: str | None = None,
    ) -> Fields:
        """Asks any member, or the one given.

        :param path: below C(/v3)
        :param write: whether doing it twice would matter; if so it is not sent again once it may have arrived
        :raises EtcdError: when a member refuses
        :raises EtcdUnavailable: when none answers
        :raises EtcdUncertain: when a write may or may not have been done
        :raises HttpError: when what answers is not etcd
        """
        failures: dict[str, ClusterError] = {}
        for turn in range(_ROUNDS):
            if turn:
                # worth another round only if an election may be over by then
                electing = any(isinstance(error, EtcdError) for error in failures.values())
                if not electing or self._deadline.left() < _ROUND_PAUSE:
                    break
                time.sleep(_ROUND_PAUSE * turn)
            for url in [endpoint] if endpoint else list(self._order):
                try:
                    return self._ask(url, path, body)
                except (HttpError, EtcdError) as error:
                    if not _passing(error):
                        raise
                    self._move_back(url)
                    failures[url] = error
                    if write and (isinstance(error, EtcdError) or error.sent):
                        raise EtcdUncertain(
                            f"{error}; the write may have been done: read before it is tried again"
                        ) from error
                if self._deadline.passed:
                    break
        raise _unavailable(path, failures)

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
                if begun or not _passing(error):
                    raise
                self._move_back(url)
                failures[url] = error
        raise _unavailable(path, failures)

    def _results(self, url: str, path: str, body: dict[str, t.Any], silence: float | None) -> t.Iterator[Fields]:
        if self._username and not self._authenticated:
            self._authenticate(url)
        client = self._client(url)
        headers = {"Authorization": self._token} if self._token else None
        rows = client.rows(f"/v3{path}", body, headers=headers, silence=silence)
        if isinstance(rows, Reply):
            raise _refusal(rows)
        for row in rows:
            reply = Reply(f"POST {url}/v3{path}", 200, "", row)
            data = reply.json_object()
            if "error" in data:
                wrapped = data["error"] if isinstance(data["error"], dict) else data
                raise _refusal(Reply(reply.asked, 500, "", json.dumps(_error_fields(wrapped)).encode()))
            yield Fields(reply, data).object("result")

    def _client(self, url: str) -> HttpClient:
        client = self._clients.get(url)
        if client is None:
            raise OptionError(f"{url} is not one of the endpoints: {', '.join(self._clients)}")
        return client

    def _move_back(self, url: str) -> None:
        if url in self._order:
            self._order.remove(url)
            self._order.append(url)

    def _ask(self, url: str, path: str, body: dict[str, t.Any]) -> Fields:
        if self._username and not self._authenticated:
            self._authenticate(url)
        try:
            return self._post(url, path, body)
        except EtcdError as error:
            if not self._username:
                raise
            if _outdated_token(error):
                self._authenticate(url)
            elif error.code == PERMISSION_DENIED and self._deadline.left() > _COMMITTED:
                # Before etcd 3.6 a user may be read as it was some writes ago, until the last ones are committed: root
                # without its role. (The read buffer's single keys are looked for behind its end, too.)
                time.sleep(_COMMITTED)
            else:
                raise
        # what was refused was not done
        return self._post(url, path, body)

    def _authenticate(self, url: str) -> None:
        self._token = None
        try:
            answer = self._post(url, "/auth/authenticate", {"name": self._username, "password": self._password})
            self._token = answer.text("token")
        except EtcdError as error:
            # with authentication off a user is not needed yet
            if error.code != FAILED_PRECONDITION:
                raise
        self._authenticated = True

    def _post(self, url: str, path: str, body: dict[str, t.Any]) -> Fields:
        headers = {"Authorization": self._token} if self._token else None
        reply = self._client(url).request("POST", f"/v3{path}", body, headers=headers)
        if reply.status != 200:
            raise _refusal(reply)
        return Fields(reply, reply.json_object())


def _outdated_token(error: EtcdError) -> bool:
    """Whether etcd refused a request because of its token: none, one that it has forgotten, or of an earlier time."""
    # simple tokens end after minutes, and with the member that gave them; others with any change to users
    words = ("user name is empty", "auth store is old")
    return error.code == UNAUTHENTICATED or (
        error.code == INVALID_ARGUMENT and any(text in error.message for text in words)
    )


def _passing(error: HttpError | EtcdError) -> bool:
    """Whether another member, or the same one later, may well do what this one did not."""
    if isinstance(error, EtcdError):
        return error.code in (UNAVAILABLE, DEADLINE_EXCEEDED)
    return error.kind != "answer"


def _unavailable(path: str, failures: t.Mapping[str, ClusterError]) -> EtcdUnavailable:
    if len(failures) == 1:
        return EtcdUnavailable(str(next(iter(failures.values()))))
    told = ", ".join(
        f"{url}: {error.cause if isinstance(error, HttpError) else _words(error)}"
        for url, error in sorted(failures.items())
    )
    # a certificate that one refuses is the likely reason of what the others do
    certain = [error.fix for error in failures.values() if isinstance(error, HttpError) and error.kind == "tls"]
    fixes = set(certain[:1]) or {getattr(error, "fix", "") for error in failures.values()}
    fix = fixes.pop() if len(fixes) == 1 else "check that a majority of the members runs, and that the URLs are theirs"
    return EtcdUnavailable(f"no endpoint answered POST /v3{path} ({told}); {fix}")


def _words(error: ClusterError) -> str:
    return repr(error.message) if isinstance(error, EtcdError) else str(error)


def _refusal(reply: Reply) -> HttpError | EtcdError:
    """The error for an answer whose status is not 200."""
    text = reply.body[:200]
    if b"HTTP request to an HTTPS server" in text:
        return reply.unusable("demand for TLS", "write https:// in endpoints")
    if b"CommonName of client" in text:
        # with authentication on, and whatever user is given
        return reply.unusable(
            "refusal of a client certificate with a common name",
            "its authentication is on: use a client certificate without one, and give username and password",
        )
    try:
        data = reply.json_object()
    except HttpError as error:
        if reply.status == 404:
            return reply.unusable(
                "page, so it has no JSON gateway at /v3/",
                "give an etcd of version 3.4 or later that was not started with --enable-grpc-gateway=false",
            )
        return error
    code = data.get("code")
    message = data.get("message") or data.get("error")
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(message, str):
        return reply.unusable("JSON object that is no error of etcd")
    return EtcdError(reply.asked, code, printable(message), _fix(code, message))


def _error_fields(wrapped: dict[str, t.Any]) -> dict[str, t.Any]:
    """The error inside a stream in the form of one outside: grpc-gateway v1 says grpc_code there."""
    code = wrapped.get("code", wrapped.get("grpc_code"))
    return {"code": code, "message": wrapped.get("message") or wrapped.get("error")}


# a member's gateway is a client of that member, and shows the certificate that the member serves with
_GATEWAY_FIX = "the member's gateway cannot reach it: its server certificate must allow client authentication, too"
_USER_FIX = "its authentication is on: give username and password"


def _fix(code: int, message: str) -> str:
    """What to do about an error; by etcd's words where one code has several meanings."""
    for words, fix in (
        ("user name is empty", _USER_FIX),
        ("authentication failed", "correct username and password"),
        ("bad certificate", _GATEWAY_FIX),
        ("connection closed", _GATEWAY_FIX),
        ("connection error", _GATEWAY_FIX),
        ("SubConns", _GATEWAY_FIX),
        ("request is too large", "one value is larger than the members' --max-request-bytes; store less in it"),
        ("too many operations", "the members' --max-txn-ops is below its default of 128; raise it"),
        ("database space exceeded", "compact, defragment, and disarm the NOSPACE alarm, or raise the quota"),
        ("required revision has been compacted", "read at a newer revision"),
        ("requested lease not found", "grant a new lease"),
    ):
        if words in message:
            return fix
    return {
        PERMISSION_DENIED: "grant the user a role that allows it",
        RESOURCE_EXHAUSTED: "the members are overloaded or full; try again, or look at their alarms",
        UNAVAILABLE: "check that a majority of the members runs and that they reach each other",
        DEADLINE_EXCEEDED: "check that a majority of the members runs and that they reach each other",
        UNAUTHENTICATED: "give username and password",
    }.get(code, "check the request against what etcd's version allows")


class Fields:
    """A JSON object from the gateway, read field by field with its type; a missing field is the zero value."""

    def __init__(self, reply: Reply, data: t.Any, path: str = "") -> None:
        self._reply = reply
        self._data = data
        self._path = path

    def wrong(self, name: str, expected: str) -> HttpError:
        """The error for a field that is not what etcd sends."""
        return self._reply.unusable(
            f"JSON object whose field {self._path}{name} is not {expected}",
            "check that this address is etcd's client port",
        )

    def integer(self, name: str) -> int:
        value = self._data.get(name, 0)
        if isinstance(value, str) and len(value) <= 20:
            try:
                return int(value)
            except ValueError:
                pass
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "a 64-bit integer")
        return value

    def text(self, name: str) -> str:
        value = self._data.get(name, "")
        if not isinstance(value, str):
            raise self.wrong(name, "a string")
        return value

    def octets(self, name: str) -> bytes:
        try:
            return base64.b64decode(self.text(name).encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise self.wrong(name, "base64") from None

    def flag(self, name: str) -> bool:
        value = self._data.get(name, False)
        if not isinstance(value, bool):
            raise self.wrong(name, "a boolean")
        return value

    def texts(self, name: str) -> list[str]:
        values = self._data.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "a list of strings")
        return values

    def object(self, name: str) -> Fields:
        value = self._data.get(name, {})
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(self._reply, value, f"{self._path}{name}.")

    def objects(self, name: str) -> list[Fields]:
        values = self._data.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise self.wrong(name, "a list of objects")
        return [Fields(self._reply, value, f"{self._path}{name}.") for value in values]


def _range_result(answer: Fields) -> RangeResult:
    kvs = tuple(
        KeyValue(
            key=item.octets("key"),
            value=item.octets("value"),
            create_revision=item.integer("create_revision"),
            mod_revision=item.integer("mod_revision"),
            version=item.integer("version"),
            lease=item.integer("lease"),
        )
        for item in answer.objects("kvs")
    )
    revision = answer.object("header").integer("revision")
    return RangeResult(kvs, answer.integer("count"), answer.flag("more"), revision)


def _put_body(key: bytes, value: bytes, lease: int) -> dict[str, t.Any]:
    body = {"key": _b64(key), "value": _b64(value)}
    if lease:
        body["lease"] = str(lease)
    return body


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def etcd_client(params: t.Mapping[str, t.Any], http: type[HttpClient] = HttpClient) -> EtcdClient:
    """The client for the parameters of C(ETCD_ARGUMENTS)."""
    return EtcdClient(
        params["endpoints"],
        tls=Tls.of(params),
        username=params["username"],
        password=params["password"],
        request_timeout=params["request_timeout"],
        timeout=params["timeout"],
        http=http,
    )


OpenMember = t.Callable[[t.Sequence[str]], EtcdClient]


def member_opener(params: t.Mapping[str, t.Any]) -> OpenMember:
    """What makes a client for the client URLs of one member, with the same parameters for all else."""
    return lambda urls: etcd_client({**params, "endpoints": list(urls)})
