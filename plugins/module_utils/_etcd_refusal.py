# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What etcd's refusals mean, and what to do about them.

Apart from the client because it is loaded only when there is something to explain: what a module is sent with, Python
compiles anew on each run.
"""

from __future__ import annotations

import json
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    DEADLINE_EXCEEDED,
    PERMISSION_DENIED,
    RESOURCE_EXHAUSTED,
    UNAUTHENTICATED,
    UNAVAILABLE,
    EtcdError,
    EtcdUnavailable,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    HttpError,
    Reply,
    printable,
)


def unavailable(path: str, failures: t.Mapping[str, ClusterError]) -> EtcdUnavailable:
    """The error for a request that no endpoint answered."""
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


def refusal(reply: Reply) -> HttpError | EtcdError:
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


def refusal_in_stream(reply: Reply, data: t.Mapping[str, t.Any]) -> HttpError | EtcdError:
    """The error for a part of a stream that is one; its status is another part's."""
    inner = data["error"] if isinstance(data["error"], dict) else data
    # grpc-gateway v1 says grpc_code there
    code = inner.get("code", inner.get("grpc_code"))
    told = {"code": code, "message": inner.get("message") or inner.get("error")}
    return refusal(Reply(reply.asked, 500, "", json.dumps(told).encode()))


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
