# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Why a request got no usable answer, as one sentence.

Apart from the rest because it is loaded only when there is something to explain: what a module is sent with, Python
compiles anew on each run.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _http_session
from ansible_collections.flotilla.cluster.plugins.module_utils._http import HttpError, printable, ssl_reason


def slow(asked: str, seconds: float, *, sent: bool) -> HttpError:
    """The error when the time had passed.

    :param sent: whether the request was on its way by then
    """
    what = "no whole answer" if sent else "no connection"
    fix = (
        "check that it is healthy, or raise request_timeout"
        if sent
        else "check the address, and that no firewall is in between"
    )
    return HttpError(asked, f"{what} within {seconds:.3g} s", fix, kind="timeout", sent=sent)


def closed(asked: str, cause: str) -> HttpError:
    """The error when the other side ended the connection."""
    fix = "check the log of the service there"
    if " http://" in asked:
        fix += ", and write https:// if it speaks TLS"
    elif " https://" in asked:
        # the alert that says so is lost when we are still writing
        fix += ", and that it accepts client_cert"
    return HttpError(asked, cause, fix, kind="closed", sent=True)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and all that it wraps, in whichever way: requests, urllib3 and ssl each have their own."""
    found: list[BaseException] = []
    todo: list[t.Any] = [error]
    while todo:
        item = todo.pop()
        if isinstance(item, BaseException) and all(item is not other for other in found):
            found.append(item)
            todo += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return found


def explain(asked: str, error: BaseException, seconds: float, base: str) -> HttpError:
    """The sentence for what requests or the standard library raised."""
    chain = _chain(error)

    def first(*kinds: type[BaseException]) -> t.Any:
        return next((item for item in chain if isinstance(item, kinds)), None)

    kinds = _http_session.errors()
    tls = _explain_tls(asked, first(ssl.SSLCertVerificationError), first(ssl.SSLError), first(kinds.tls))
    if tls is not None:
        return tls
    if first(kinds.timeout, TimeoutError, socket.timeout) is not None:
        return slow(asked, seconds, sent=first(*kinds.connect_timeouts) is None)
    local = first(FileNotFoundError, PermissionError)
    if local is not None and base.startswith("unix://"):
        missing = isinstance(local, FileNotFoundError)
        cause = "there is no such socket" if missing else "permission denied on the socket"
        fix = (
            "start the service that listens on it"
            if missing
            else "run the task with become, or as a member of the socket's group"
        )
        return HttpError(asked, cause, fix, kind="local", sent=False)
    if first(ConnectionRefusedError) is not None:
        return HttpError(
            asked,
            "connection refused",
            "check that the service runs there and listens on this address",
            kind="refused",
            sent=False,
        )
    if first(socket.gaierror) is not None:
        return HttpError(
            asked, "the host name cannot be resolved", "correct the name, or give an address", kind="dns", sent=False
        )
    if first(http.client.HTTPException, ConnectionResetError, BrokenPipeError, ConnectionAbortedError) is not None:
        return closed(asked, "the connection was closed before a whole answer had come")
    system = next((item for item in chain if isinstance(item, OSError) and item.errno and item.strerror), None)
    if system is not None:
        cause = str(system.strerror).lower()
        return HttpError(asked, cause, "check the address and the route to it", kind="unreachable", sent=False)
    cause = f"no usable answer ({printable(str(error))})"
    return HttpError(asked, cause, "check that this address belongs to the service", kind="answer", sent=True)


def _explain_tls(asked: str, unverified: t.Any, low: t.Any, high: t.Any) -> HttpError | None:
    """The sentence for a failed TLS handshake, None when it was not that."""
    if unverified is None and low is None and high is None:
        return None
    if unverified is not None:
        cause = f"its certificate does not verify ({printable(str(unverified.verify_message))})"
        fix = "ca_cert must hold the authority that signed it, and it must name the host that the URL names"
        return HttpError(asked, cause, fix, kind="tls", sent=False)
    reason = str(getattr(low, "reason", None) or "")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return HttpError(
            asked, "what listens there does not speak TLS", "correct the port, or use http://", kind="tls", sent=False
        )
    if "ALERT" in reason:
        cause = f"it refused the TLS connection ({ssl_reason(low)})"
        fix = "client_cert and client_key must hold a valid certificate signed by an authority that it trusts"
        return HttpError(asked, cause, fix, kind="tls", sent=False)
    if "EOF" in reason or isinstance(low, ssl.SSLEOFError):
        return closed(asked, "the TLS connection was closed before a whole answer had come")
    cause = f"the TLS connection failed ({ssl_reason(low) if low is not None else printable(str(high))})"
    return HttpError(asked, cause, "check ca_cert, client_cert and client_key", kind="tls", sent=False)
