# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What will stop an etcd cluster before long: certificates that end, a database near its quota, a disk that fills,
members whose data differ. What is due is decided by a pure function; reading it from members and files is done here.
"""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import typing as t
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import OpenMember, Status, View
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError, OptionError, Tls

_QUOTA_METRIC = "etcd_server_quota_backend_bytes"


@dataclass(frozen=True)
class Limits:
    """:ivar certificate_days: least days that a certificate has to have left; an authority's: authority_days
    :ivar quota: greatest share of its quota that a database may have
    :ivar disk: greatest share of its disk that may be in use
    """

    certificate_days: int
    authority_days: int
    quota: float
    disk: float


@dataclass(frozen=True)
class Certificate:
    """:ivar name: where it is: a path, or the URL that serves it
    :ivar problem: why it cannot be read, "" when it can
    """

    name: str
    authority: bool = False
    until: datetime.datetime | None = None
    problem: str = ""


@dataclass(frozen=True)
class Disk:
    """Bytes of the disk that has C(path); C(free) is what a service may still use."""

    path: str
    size: int
    free: int


@dataclass(frozen=True)
class Detail:
    """What a member tells when it is asked for more.

    :ivar quota: bytes that its database may have, 0 when it does not tell
    :ivar hash: of its data at the revision that all were asked for, and the revision that it was compacted to
    """

    quota: int = 0
    certificate: Certificate | None = None
    hash: tuple[int, int] | None = None


def parse_limits(params: t.Mapping[str, t.Any]) -> Limits:
    """:raises OptionError: for a limit that cannot be"""
    for name in ("certificate_days", "authority_days"):
        if params[name] < 0:
            raise OptionError(f"limits.{name} is {params[name]}; give 0 or more days")
    for name in ("quota", "disk"):
        if not 0 < params[name] <= 1:
            raise OptionError(f"limits.{name} is {params[name]:g}; give a share above 0 and up to 1")
    return Limits(params["certificate_days"], params["authority_days"], params["quota"], params["disk"])


def certificate_findings(certificates: t.Iterable[Certificate], limits: Limits, now: datetime.datetime) -> list[str]:
    """One sentence for each certificate that ends too soon or cannot be read."""
    found = []
    for one in certificates:
        if one.until is None:
            found.append(f"the certificate {one.name} cannot be read: {one.problem}")
            continue
        least = limits.authority_days if one.authority else limits.certificate_days
        left = (one.until - now).total_seconds() / 86400
        if left < least:
            when = f"ended on {one.until:%Y-%m-%d}" if left < 0 else f"ends on {one.until:%Y-%m-%d}, in {left:.0f} days"
            what = "authority" if one.authority else "certificate"
            found.append(f"the {what} {one.name} {when}, and the limit is {least}: renew it")
    return found


def disk_findings(disk: Disk | None, limits: Limits) -> list[str]:
    """A sentence when a disk is too full."""
    if disk is None or not disk.size:
        return []
    used = 1 - disk.free / disk.size
    if used < limits.disk:
        return []
    return [
        f"the disk of {disk.path} is {used:.0%} full with {_bytes(disk.free)} left, and the limit is {limits.disk:.0%}:"
        " make room, or give it a larger disk"
    ]


def member_findings(view: View, details: t.Mapping[int, Detail], limits: Limits, now: datetime.datetime) -> list[str]:
    """One sentence for each member that runs out of its quota, whose certificate ends, or whose data differ."""
    found: list[str] = []
    for member in view.members:
        status, detail = view.statuses.get(member.id), details.get(member.id)
        if not isinstance(status, Status) or detail is None:
            continue
        found += [f"{member.name}: {one}" for one in _quota_findings(status, detail.quota, limits)]
        if detail.certificate is not None:
            served = certificate_findings([detail.certificate], limits, now)
            found += [f"{member.name}: {one}" for one in served]
    return found + _hash_findings(view, details)


def _quota_findings(status: Status, quota: int, limits: Limits) -> list[str]:
    if not quota or status.db_size < limits.quota * quota:
        return []
    if status.db_size_in_use < limits.quota * quota:
        advice = f"defragment it, as only {_bytes(status.db_size_in_use)} are in use"
    else:
        advice = "delete keys or compact and defragment, or raise quota-backend-bytes"
    return [
        f"its database has {_bytes(status.db_size)}, {status.db_size / quota:.0%} of its quota of {_bytes(quota)}, and"
        f" the limit is {limits.quota:.0%}: {advice}"
    ]


def _hash_findings(view: View, details: t.Mapping[int, Detail]) -> list[str]:
    # what was compacted differently has different hashes, and is the same for clients
    groups: dict[int, dict[int, list[str]]] = {}
    for member in view.members:
        detail = details.get(member.id)
        if detail is not None and detail.hash is not None:
            number, compacted = detail.hash
            groups.setdefault(compacted, {}).setdefault(number, []).append(member.name)
    return [
        "members hold different data at one revision"
        f" ({'; '.join(f'{number:08x}: ' + ', '.join(names) for number, names in sorted(hashes.items()))}):"
        " replace the one that is alone, with etcd_replace.yml"
        for hashes in groups.values()
        if len(hashes) > 1
    ]


def _bytes(number: int) -> str:
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def look_closer(view: View, open_member: OpenMember, tls: Tls, *, seconds: float, hashes: bool) -> dict[int, Detail]:
    """Asks every member that answers for its quota, its certificate and, if wanted, the hash of its data.

    :param seconds: for the connection that shows a certificate
    """
    answering = [
        (member, status)
        for member in view.members
        for status in [view.statuses.get(member.id)]
        if isinstance(status, Status)
    ]
    # all of them have it: one that lags behind waits until it does
    revision = min((status.revision for _member, status in answering), default=0)
    details: dict[int, Detail] = {}
    for member, status in answering:
        quota, number = status.db_size_quota, None
        try:
            with closing(open_member([status.endpoint])) as own:
                quota = quota or int(own.metric(_QUOTA_METRIC))
                if hashes and not status.version.startswith("3.4."):
                    number = own.hash_kv(revision)
        except ClusterError:
            # it answered a moment ago: what it does not tell is left open
            pass
        details[member.id] = Detail(quota, served_certificate(status.endpoint, tls, seconds), number)
    return details


def served_certificate(url: str, tls: Tls, seconds: float) -> Certificate | None:
    """The certificate that a server shows, None for one without TLS."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_cert or None)
        if tls.client_cert:
            context.load_cert_chain(tls.client_cert, tls.client_key)
        plain = socket.create_connection((parts.hostname, parts.port or 443), seconds)
        with plain, context.wrap_socket(plain, server_hostname=parts.hostname) as secure:
            shown = secure.getpeercert() or {}
        stamp = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    except (OSError, ValueError, KeyError) as error:
        return Certificate(f"of {url}", problem=str(error))
    return Certificate(f"of {url}", until=datetime.datetime.fromtimestamp(stamp, datetime.timezone.utc))


def read_certificates(paths: t.Iterable[str]) -> list[Certificate]:
    """The certificates of PEM files on this host; of several in one file the one that ends first.

    :raises OptionError: without C(cryptography)
    """
    # late, as it takes a while and few runs need it
    from ansible_collections.flotilla.cluster.plugins.module_utils import _pki

    if not _pki.HAS_CRYPTOGRAPHY:
        raise OptionError("certificates needs python3-cryptography on the host; install it")
    found = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                bundle = _pki.load_bundle(file.read(), path)
        except (OSError, _pki.PkiError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            found.append(Certificate(path, problem=reason))
            continue
        first = min(bundle, key=_pki.valid_until)
        found.append(Certificate(path, _pki.is_authority(first), _pki.valid_until(first)))
    return found


def read_disk(path: str) -> Disk | None:
    """The disk of a folder, None when there is no such folder."""
    try:
        stat = os.statvfs(path)
    except OSError:
        return None
    return Disk(path, stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
