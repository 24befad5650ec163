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
import time
import typing as t

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


class KeyValue(t.NamedTuple):
    """One key as etcd stores it. C(lease) is 0 when it has none."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class RangeResult(t.NamedTuple):
    """Keys in order. C(total) is the number in the whole range, C(more) says that a limit cut them."""

    kvs: tuple[KeyValue, ...]
    total: int
    more: bool
    revision: int


class DeleteResult(t.NamedTuple):
    deleted: int
    revision: int


class TxnResult(t.NamedTuple):
    """C(ranges) has the result of each range operation of the branch that was taken, in its order."""

    succeeded: bool
    revision: int
    ranges: tuple[RangeResult, ...]


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


_Client = t.TypeVar("_Client", bound="EtcdClient")


class EtcdClient:
    """Speaks to one cluster through any of its members.

    The endpoint that answered last is asked first. Connections are kept, and so is the token when there is
    a user: one is fetched for the first request, and once more if the members forget it.
    """

    _http: type[HttpClient] = HttpClient

    def __init__(
        self,
        endpoints: t.Sequence[str],
        *,
        tls: Tls | None = None,
        username: str | None = None,
        password: str | None = None,
        request_timeout: float = 5.0,
        timeout: float = 30.0,
        http: type[HttpClient] | None = None,
    ) -> None:
        """
        :param http: what requests are made with, if not with what is usual for this class
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
        kind = http or self._http
        self._clients = {
            url: kind(
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

    @classmethod
    def of(cls: type[_Client], params: t.Mapping[str, t.Any], http: type[HttpClient] | None = None) -> _Client:
        """The client for the parameters of C(ETCD_ARGUMENTS)."""
        return cls(
            params["endpoints"],
            tls=Tls.of(params),
            username=params["username"],
            password=params["password"],
            request_timeout=params["request_timeout"],
            timeout=params["timeout"],
            http=http,
        )

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
        total = 0
        while True:
            room = limit - len(found) if limit else PAGE_KEYS
            page = self.range(start, end, limit=min(PAGE_KEYS, room), revision=revision, keys_only=keys_only)
            if not found:
                total = page.total
                revision = revision or page.revision
            found += page.kvs
            if not page.more or not page.kvs or (limit and len(found) >= limit):
                return RangeResult(tuple(found), total, len(found) < total, revision)
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
        # a stream, which ends after one answer to one request
        return self.call("/lease/keepalive", {"ID": str(lease)}).object("result").integer("TTL") > 0

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
                    if not passing(error):
                        raise
                    self._move_back(url)
                    failures[url] = error
                    if write and (isinstance(error, EtcdError) or error.sent):
                        raise EtcdUncertain(
                            f"{error}; the write may have been done: read before it is tried again"
                        ) from error
                if self._deadline.passed:
                    break
        raise _refusals().unavailable(path, failures)

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
            raise _refusals().refusal(reply)
        data = reply.json_object()
        if "error" in data:
            raise _refusals().refusal_in_stream(reply, data)
        return Fields(reply, data)


def _refusals() -> t.Any:
    """What explains errors. Loaded late: there is one seldom, and Python compiles it for each module anew."""
    from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_refusal

    return _etcd_refusal


def _outdated_token(error: EtcdError) -> bool:
    """Whether etcd refused a request because of its token: none, one that it has forgotten, or of an earlier time."""
    # simple tokens end after minutes, and with the member that gave them; others with any change to users
    words = ("user name is empty", "auth store is old")
    return error.code == UNAUTHENTICATED or (
        error.code == INVALID_ARGUMENT and any(text in error.message for text in words)
    )


def passing(error: HttpError | EtcdError) -> bool:
    """Whether another member, or the same one later, may well do what this one did not."""
    if isinstance(error, EtcdError):
        return error.code in (UNAVAILABLE, DEADLINE_EXCEEDED)
    return error.kind != "answer"


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
