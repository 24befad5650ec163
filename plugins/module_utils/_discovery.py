# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""etcd's discovery protocols: tokens by which the members of a new cluster find each other.

In v2 a service makes tokens, and one is a URL with 32 hexadecimal digits. In v3 any etcd is the registry, and a token
is the digits alone. Whoever knows it reads the members' addresses and can take a place among them, so it never stands
in a message: it is shown as C(<token>).
"""

from __future__ import annotations

import re
import typing as t
import uuid
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import quote

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    EtcdClient,
    prefix_end,
    request_put,
    unmodified,
)
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

# What a cluster can have. The service itself takes any number, and makes a token that is of no use.
SIZES = (1, 3, 5, 7, 9)

_TOKEN = re.compile(r"[0-9a-f]{32}")
_SHOWN = "/<token>"
_KEY_NOT_FOUND = 100
_MAX_BODY = 1_000_000
_REGISTRY = "/_etcd/registry"
_NO_PAGE_FIX = "check the URL, or bootstrap etcd without discovery (etcd_bootstrap: static)"


class DiscoveryError(ClusterError):
    """A token, or a service, that does not do."""


@dataclass(frozen=True)
class Registration:
    """One member that registered itself; C(peer_urls) in the order it gave them."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    order: int


@dataclass(frozen=True)
class Token:
    """What the service knows of a token; C(size) None: it has none, so no member can use it."""

    size: int | None
    members: tuple[Registration, ...]

    @property
    def status(self) -> str:
        """C(open), C(full), C(burnt) or C(unknown)."""
        if self.size is None:
            return "burnt" if self.members else "unknown"
        if _clash(self.members) or len(self.members) > self.size or self.size not in SIZES:
            return "burnt"
        return "full" if len(self.members) == self.size else "open"

    @property
    def summary(self) -> str:
        """The status in one sentence that says what to do."""
        names = ", ".join(printable(member.name, 60) or member.id for member in self.members)
        fresh = "create a new one"
        if self.size is None:
            if not self.members:
                return f"the token is unknown to the service: {fresh}"
            return f"the token is burnt: {names} registered, but its size is gone; {fresh}"
        count = f"{len(self.members)}/{self.size} members"
        if self.size not in SIZES:
            return f"the token is burnt: its size is {self.size}, and a cluster has 1, 3, 5, 7 or 9 members; {fresh}"
        clash = _clash(self.members)
        if clash:
            return f"the token is burnt: {clash} registered twice, and etcd refuses to start so; {fresh}"
        if self.status == "burnt":
            return f"the token is burnt: it has {count} ({names}); {fresh}"
        if self.status == "full":
            return f"the token already has {count} ({names}): tokens are for one cluster only, {fresh} for another"
        return (
            f"the token has {count}"
            + (f" ({names})" if names else "")
            + f" and waits for {self.size - len(self.members)} more"
        )


def _clash(members: t.Sequence[Registration]) -> str:
    """The name or URL that two members share, empty when none does."""
    seen: set[str] = set()
    for member in members:
        for word in (member.name, *member.peer_urls):
            if word in seen:
                return repr(printable(word))
            seen.add(word)
    return ""


def check_size(size: int) -> None:
    """:raises OptionError: unless a cluster can have this size"""
    if size not in SIZES:
        raise OptionError(
            f"size is {size}; give an odd number from 1 to 9, as an even one tolerates no more failures than one less"
        )


def split_token(value: str, url: str | None) -> tuple[str, str]:
    """The service's URL and the 32 digits of a token.

    :param value: the token's URL, or its digits alone together with C(url)
    :raises OptionError: when it is neither; the value is not repeated
    """
    service, slash, digits = value.rstrip("/").rpartition("/")
    if not _TOKEN.fullmatch(digits):
        raise OptionError("token does not end in 32 hexadecimal digits; give the URL that the service returned for it")
    if slash:
        return base_url("token", service), digits
    if not url:
        raise OptionError("token is not a URL; give the whole URL, or the service's own as url")
    return base_url("url", url), digits


def _registered(key: str, value: str, order: int) -> Registration:
    """A member as it wrote itself down: one with two URLs as name=url1,name=url2."""
    pairs = [pair.partition("=") for pair in re.split(r"[,&]", value)]
    return Registration(
        id=key.rstrip("/").rpartition("/")[2],
        name=pairs[0][0],
        peer_urls=tuple(url for _name, _equals, url in pairs if url),
        order=order,
    )


class Service(t.Protocol):
    """What keeps tokens, by either protocol."""

    def create(self, size: int) -> str:
        """Makes a token for so many members; returns it as etcd takes it."""

    def read(self, digits: str) -> Token:
        """What is known of a token."""

    def delete(self, digits: str) -> None:
        """Removes all that is known of a token."""

    def close(self) -> None:
        """Ends all connections."""


class RegistryClient:
    """The registry of v3 discovery: keys of an etcd."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    def close(self) -> None:
        self._client.close()

    def create(self, size: int) -> str:
        check_size(size)
        digits = uuid.uuid4().hex
        key = self._key(digits, "_config/size")
        made = self._client.txn([unmodified(key, 0)], [request_put(key, str(size).encode())])
        if not made.succeeded:
            raise DiscoveryError("the new token was taken by somebody else in the meantime: run again")
        return digits

    def read(self, digits: str) -> Token:
        prefix = self._key(digits, "")
        size: int | None = None
        members = []
        for item in self._client.range(prefix, prefix_end(prefix)).kvs:
            path = item.key[len(prefix) :].decode("utf-8", "replace")
            value = item.value.decode("utf-8", "replace")
            if path == "_config/size":
                if not re.fullmatch(r"-?[0-9]{1,9}", value):
                    raise DiscoveryError(
                        f"the registry {self._where} has a size of the token that is no number; create a new token"
                    )
                size = int(value)
            elif path.startswith("members/"):
                members.append(_registered(path, value, item.create_revision))
        return Token(size, tuple(sorted(members, key=lambda member: (member.order, member.id))))

    def delete(self, digits: str) -> None:
        prefix = self._key(digits, "")
        self._client.delete(prefix, prefix_end(prefix))

    @property
    def _where(self) -> str:
        return self._client.endpoints[0]

    def _key(self, digits: str, path: str) -> bytes:
        return f"{_REGISTRY}/{digits}/{path}".encode()


class DiscoveryClient:
    """Speaks to one service of v2 discovery.

    :param url: URL of the service, the part before the token
    """

    def __init__(
        self, url: str, *, tls: Tls | None = None, request_timeout: float = 10.0, timeout: float = 30.0
    ) -> None:
        self._url = base_url("url", url)
        check_seconds("request_timeout", request_timeout)
        check_seconds("timeout", timeout)
        # a public service is often behind a proxy, seen from a cluster
        self._http = HttpClient(
            self._url,
            tls=tls,
            timeout=request_timeout,
            deadline=Deadline(timeout),
            max_body=_MAX_BODY,
            proxies=True,
        )

    def close(self) -> None:
        self._http.close()

    def create(self, size: int) -> str:
        """Makes a token for a cluster of so many members.

        :returns: its URL, as the service spells it; a secret
        :raises DiscoveryError: when the service makes none, or one of another size
        """
        check_size(size)
        reply = self._http.request("GET", f"/new?size={size}")
        if reply.status != 200:
            raise self._refused(reply)
        try:
            url = reply.body.decode("ascii").strip()
            service, digits = split_token(url, None)
        except (UnicodeDecodeError, OptionError):
            if reply.body.lstrip().startswith(b"<"):
                raise reply.unusable("page in place of a token", _NO_PAGE_FIX) from None
            # not repeated: it may be a token after all, spelled in a way that etcd does not take
            raise DiscoveryError(
                f"{reply.asked}: got {len(reply.body)} bytes that are no URL with a token of 32 hexadecimal digits;"
                " check that this is a discovery service"
            ) from None
        found = self.read(digits)
        if found.size != size or found.members:
            raise DiscoveryError(
                f"the discovery service {self._url} made a token for {size} members, and then said that"
                f" {found.summary}; check what this service is"
            )
        return f"{service}/{digits}"

    def read(self, digits: str) -> Token:
        """What the service knows of a token; its status may be C(unknown)."""
        sized = self._node(digits, "/_config/size")
        size: int | None = None
        if sized is not None:
            value = sized.get("value")
            if not isinstance(value, str) or not re.fullmatch(r"-?[0-9]{1,9}", value):
                raise self._strange("size that is no number")
            size = int(value)
        listed = self._node(digits, "")
        nodes = [] if listed is None else listed.get("nodes") or []
        if not isinstance(nodes, list):
            raise self._strange("list of members that is none")
        members = [self._registration(node) for node in nodes]
        return Token(size, tuple(sorted(members, key=lambda member: (member.order, member.id))))

    def delete(self, digits: str) -> None:
        """Removes a token's members and its size, so that nobody can use it.

        The service does not let anyone remove the empty directory that is left.

        :raises DiscoveryError: when something of it is still there
        """
        for member in self.read(digits).members:
            self._remove(digits, f"/{quote(member.id, safe='')}")
        self._remove(digits, "/_config?recursive=true&dir=true")
        left = self.read(digits)
        if left.status != "unknown":
            raise DiscoveryError(
                f"the discovery service {self._url} accepted the deletion, and {left.summary.split(';')[0]};"
                " it cannot delete tokens: remove the key in the etcd behind it"
            )

    def _remove(self, digits: str, path: str) -> None:
        reply = self._http.request("DELETE", f"/{digits}{path}", shown=_SHOWN + path)
        if reply.status not in (200, 404):
            raise self._refused(reply)

    def _node(self, digits: str, path: str) -> dict[str, t.Any] | None:
        """A node of the token's directory, None when there is none."""
        try:
            reply = self._http.request("GET", f"/{digits}{path}", shown=_SHOWN + path)
        except HttpError as error:
            if error.kind == "closed":
                # Debian's service does so when it cannot reach the etcd behind it
                raise DiscoveryError(
                    f"{error.asked}: {error.cause}; most likely the etcd behind the discovery service is down"
                ) from error
            raise
        if reply.status == 404:
            data = reply.json_object()
            if data.get("errorCode") == _KEY_NOT_FOUND:
                return None
        if reply.status != 200:
            raise self._refused(reply)
        node = reply.json_object().get("node")
        if not isinstance(node, dict):
            raise reply.unusable("JSON object without a node")
        return node

    def _registration(self, node: t.Any) -> Registration:
        key = node.get("key") if isinstance(node, dict) else None
        value = node.get("value") if isinstance(node, dict) else None
        order = node.get("createdIndex", 0) if isinstance(node, dict) else None
        if not isinstance(key, str) or not isinstance(value, str) or not isinstance(order, int):
            raise self._strange("member without key and value")
        # a member with two URLs registers as name=url1,name=url2
        return _registered(key, value, order)

    def _strange(self, what: str) -> DiscoveryError:
        return DiscoveryError(
            f"the discovery service {self._url} answered a {what}; check that this is a discovery service"
        )

    def _refused(self, reply: Reply) -> ClusterError:
        """The error for a status that nobody expected."""
        text = reply.body[:500].decode("utf-8", "replace").strip()
        if text.startswith("<"):
            return reply.unusable("page", _NO_PAGE_FIX)
        if text.startswith("{"):
            message = reply.json_object().get("message")
            text = message if isinstance(message, str) else ""
        hint = "check that the service is up"
        if "Unable to generate token" in text:
            hint = "the etcd behind the service is down or does not serve the v2 API (--enable-v2, up to etcd 3.5)"
        words = printable(text, 80) or "no text"
        return DiscoveryError(f"{reply.asked}: the discovery service answered status {reply.status} ({words}); {hint}")


def _service(params: t.Mapping[str, t.Any], url: str) -> Service:
    """The client for a module's parameters and, for v2, the service's URL."""
    limits = {"request_timeout": params["request_timeout"], "timeout": params["timeout"]}
    if params["protocol"] == "v3":
        return RegistryClient(EtcdClient(params["endpoints"], tls=Tls.of(params), **limits))
    return DiscoveryClient(url, tls=Tls.of(params), **limits)


def _place(params: t.Mapping[str, t.Any]) -> tuple[str, str, str]:
    """Where a token is kept: the service's URL, its digits, and both of it for messages.

    :raises OptionError: for options that do not fit the protocol
    """
    if params["protocol"] == "v3":
        if not params["endpoints"]:
            raise OptionError(
                "endpoints is empty; protocol is v3, so give the client URLs of the etcd that keeps tokens"
            )
        digits = params["token"] or ""
        if digits and not _TOKEN.fullmatch(digits):
            raise OptionError("token is not 32 hexadecimal digits, as tokens of this module for v3 discovery are")
        return "", digits, base_url("endpoints", params["endpoints"][0])
    if params["token"] is None:
        if not params["url"]:
            raise OptionError("url is missing; protocol is v2, so give the URL of the discovery service")
        return params["url"], "", params["url"]
    service, digits = split_token(params["token"], params["url"])
    return service, digits, service


def run(params: t.Mapping[str, t.Any], *, check: bool) -> dict[str, t.Any]:
    """What the module does and returns.

    :raises DiscoveryError: for a token that is not there or is for another size
    """
    size = params["size"]
    if size is not None:
        check_size(size)
    if params["token"] is None and size is None:
        raise OptionError("size is missing; give the number of members that the new token is for")
    url, digits, where = _place(params)
    with closing(_service(params, url)) as client:
        if not digits:
            return _created(client, t.cast(int, size), check, "token" if params["protocol"] == "v3" else "token_url")
        found = client.read(digits)
        there = found.status != "unknown"
        if params["state"] == "absent":
            if there and not check:
                client.delete(digits)
            return {"changed": there, "members": [], "status": "absent", "summary": "the token is not there"}
    if not there:
        raise DiscoveryError(f"{where}: {found.summary}")
    if size is not None and found.size is not None and found.size != size:
        raise DiscoveryError(
            f"{where}: the token is for {found.size} members, not for {size}; create one for {size}, or correct size"
        )
    return {"changed": False, "size": found.size, **_described(found)}


def _created(client: Service, size: int, check: bool, name: str) -> dict[str, t.Any]:
    result: dict[str, t.Any] = {"changed": True, "size": size, **_described(Token(size, ()))}
    if not check:
        result[name] = client.create(size)
    return result


def _described(token: Token) -> dict[str, t.Any]:
    return {
        "members": [
            {"id": member.id, "name": member.name, "peer_urls": list(member.peer_urls)} for member in token.members
        ],
        "status": token.status,
        "summary": token.summary,
    }
