# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""The one table of etcd's versions: which are safe, where archives come from and what is in them, which command-line
options a version knows, and which version may follow which.

Options were asked of real programs (tests/integration/test_etcd_versions.py asks them again).
"""

from __future__ import annotations

import re
import typing as t

Version = tuple[int, int, int]

# Of each minor version the oldest without the known faults that a scheduler on leases suffers from, and without the
# gaps in permissions that were closed in 2026.
FLOORS: dict[str, str] = {"3.5": "3.5.33", "3.6": "3.6.14", "3.7": "3.7.1"}
# What is installed from a release when no version is given.
DEFAULT = "3.6.14"
OLDEST, NEWEST = "3.4", "3.7"

# SHA-256 of the release archives etcd-v<version>-linux-<architecture>.tar.gz, as upstream's SHA256SUMS has them.
ARCHIVES: dict[tuple[str, str], str] = {
    ("3.5.33", "amd64"): "5025b5b24d81a9616b6e284ccd439b9a3df055ef8fdcdc142af3ec8f6a3b3c95",
    ("3.6.14", "amd64"): "ffe840ff9295808e88cce2794a18a5ac87f12a5203c8314d0bf6aa119b41bac5",
    ("3.6.14", "arm64"): "fa1b80565ee6fc2df1ae6f57a508b221f3ecc7d591c317c581cd8281b0842b3e",
    ("3.7.1", "amd64"): "e8cd3fa8064c98137c5dbd78b76f969417ace84efb83c481041d7a52ffdd8fb9",
    ("3.7.1", "arm64"): "d7e25e08f694b6ed7792fc7b7a891fe2c3f3d3dccfe2f3bfdb1547b0eb75b6da",
}
# names of the kernel, and of Debian, for the architectures that etcd supports in full
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

# Oldest version of a minor one from which all members may go on to the next: earlier ones lose members on the way.
_LEAVE_FROM = {"3.5": "3.5.32", "3.6": "3.6.11"}
# From here on a member does not start on a log with entries of two minor versions before: a raft snapshot has to be
# taken on the version before.
_FLUSH_BEFORE = (3, 6)

# First and last minor version that know these command-line options.
FLAGS: dict[tuple[str, str], str] = {
    ("3.4", "3.4"): """
        debug experimental-backend-bbolt-freelist-type log-package-levels
    """,
    ("3.4", "3.5"): """
        enable-v2 experimental-enable-v2v3 proxy proxy-dial-timeout proxy-failure-wait proxy-read-timeout
        proxy-refresh-interval proxy-write-timeout
    """,
    ("3.4", "3.6"): """
        discovery discovery-proxy experimental-compaction-batch-limit experimental-corrupt-check-time
        experimental-enable-lease-checkpoint experimental-enable-lease-checkpoint-persist
        experimental-initial-corrupt-check experimental-peer-skip-client-san-verification
        experimental-warning-apply-duration experimental-watch-progress-notify-interval
    """,
    ("3.4", "3.7"): """
        advertise-client-urls auth-token auth-token-ttl auto-compaction-mode auto-compaction-retention auto-tls
        backend-batch-interval backend-batch-limit bcrypt-cost cert-file cipher-suites
        client-cert-allowed-hostname client-cert-auth client-crl-file config-file cors data-dir
        discovery-fallback discovery-srv discovery-srv-name election-timeout enable-grpc-gateway enable-pprof
        force-new-cluster grpc-keepalive-interval grpc-keepalive-min-time grpc-keepalive-timeout
        heartbeat-interval host-whitelist initial-advertise-peer-urls initial-cluster initial-cluster-state
        initial-cluster-token initial-election-tick-advance key-file listen-client-urls listen-metrics-urls
        listen-peer-urls log-level log-outputs logger max-concurrent-streams max-request-bytes max-snapshots
        max-txn-ops max-wals metrics name peer-auto-tls peer-cert-allowed-cn peer-cert-allowed-hostname
        peer-cert-file peer-client-cert-auth peer-crl-file peer-key-file peer-trusted-ca-file pre-vote
        quota-backend-bytes snapshot-count strict-reconfig-check trusted-ca-file unsafe-no-fsync wal-dir
    """,
    ("3.5", "3.6"): """
        experimental-bootstrap-defrag-threshold-megabytes experimental-compact-hash-check-enabled
        experimental-compact-hash-check-time experimental-compaction-sleep-interval
        experimental-distributed-tracing-address experimental-distributed-tracing-instance-id
        experimental-distributed-tracing-sampling-rate experimental-distributed-tracing-service-name
        experimental-downgrade-check-time experimental-enable-distributed-tracing experimental-memory-mlock
        experimental-snapshot-catchup-entries experimental-stop-grpc-service-on-defrag
        experimental-txn-mode-write-with-shared-buffer
    """,
    ("3.5", "3.7"): """
        backend-bbolt-freelist-type client-cert-file client-key-file enable-log-rotation listen-client-http-urls
        log-rotation-config-json peer-client-cert-file peer-client-key-file raft-read-timeout raft-write-timeout
        self-signed-cert-validity socket-reuse-address socket-reuse-port tls-max-version tls-min-version
        v2-deprecation
    """,
    ("3.6", "3.6"): """
        experimental-warning-unary-request-duration
    """,
    ("3.6", "3.7"): """
        bootstrap-defrag-threshold-megabytes compact-hash-check-time compaction-batch-limit
        compaction-sleep-interval corrupt-check-time discovery-cacert discovery-cert discovery-dial-timeout
        discovery-endpoints discovery-insecure-skip-tls-verify discovery-insecure-transport
        discovery-keepalive-time discovery-keepalive-timeout discovery-key discovery-password
        discovery-request-timeout discovery-token discovery-user distributed-tracing-address
        distributed-tracing-instance-id distributed-tracing-sampling-rate distributed-tracing-service-name
        downgrade-check-time enable-distributed-tracing feature-gates log-format max-learners memory-mlock
        peer-skip-client-san-verification snapshot-catchup-entries warning-apply-duration
        warning-unary-request-duration watch-progress-notify-interval
    """,
}

_SINCE_UNTIL = {name: span for span, names in FLAGS.items() for name in names.split()}
# What to write in place of an option that is gone.
_INSTEAD = {
    "debug": "log-level: debug",
    "discovery": "etcd_bootstrap: discovery with a v3 token",
    "enable-v2": "nothing: the v2 API is gone for good",
    "experimental-initial-corrupt-check": "feature-gates: InitialCorruptCheck=true",
    "experimental-compact-hash-check-enabled": "feature-gates: CompactHashCheck=true",
    "experimental-enable-lease-checkpoint": "feature-gates: LeaseCheckpoint=true",
    "experimental-enable-lease-checkpoint-persist": "feature-gates: LeaseCheckpointPersist=true",
    "experimental-stop-grpc-service-on-defrag": "feature-gates: StopGRPCServiceOnDefrag=true",
    "experimental-txn-mode-write-with-shared-buffer": "feature-gates: TxnModeWriteWithSharedBuffer=true",
    "experimental-compact-hash-check-time": "compact-hash-check-time",
    "experimental-enable-distributed-tracing": "enable-distributed-tracing",
}
# Options that role etcd writes itself: given twice, the later one would silently win.
_OWN = """
    name data-dir listen-client-urls advertise-client-urls listen-peer-urls initial-advertise-peer-urls
    listen-metrics-urls client-cert-auth trusted-ca-file cert-file key-file peer-client-cert-auth
    peer-trusted-ca-file peer-cert-file peer-key-file heartbeat-interval election-timeout quota-backend-bytes
    auto-compaction-mode auto-compaction-retention strict-reconfig-check bcrypt-cost logger log-level initial-cluster
    initial-cluster-state initial-cluster-token config-file force-new-cluster
    discovery discovery-fallback discovery-proxy discovery-token discovery-endpoints discovery-insecure-transport
    discovery-insecure-skip-tls-verify discovery-cacert discovery-cert discovery-key discovery-srv
"""
OWN_FLAGS = frozenset(_OWN.split())


def parse(version: str) -> Version | None:
    """A version as three numbers, without what a distribution or a pre-release adds; None when it is none."""
    found = re.match(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[^\d].*)?$", version.strip())
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def minor_of(version: str) -> str:
    """The minor version, such as C(3.6); empty when the text is no version."""
    found = parse(version)
    return f"{found[0]}.{found[1]}" if found else ""


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.split(".")
    return int(major), int(minor)


def floor_warning(version: str) -> str:
    """Why a version is not a good choice, as one sentence; empty when it is."""
    seen = parse(version)
    if seen is None:
        return ""
    floor = FLOORS.get(minor_of(version), FLOORS[min(FLOORS)] if seen[:2] < _minor(min(FLOORS)) else "")
    wanted = parse(floor) if floor else None
    if wanted is None or seen >= wanted:
        return ""
    return (
        f"etcd {version} is older than {floor}: it may revoke leases that are alive, answer renewals of leases that"
        " are gone, and lets a user read and write beyond its permissions. The cluster works; for one that matters"
        " set etcd_source to 'release', or run etcd_upgrade.yml."
    )


def archive_name(version: str, architecture: str) -> str:
    """Name of the release archive for a host."""
    known = _ARCHITECTURES.get(architecture, architecture)
    return f"etcd-v{version}-linux-{known}.tar.gz"


def archive_sum(version: str, architecture: str) -> str:
    """SHA-256 of the release archive for a host, empty when this collection does not know it."""
    return ARCHIVES.get((version, _ARCHITECTURES.get(architecture, "")), "")


def flag_problems(version: str, flags: t.Iterable[str]) -> list[str]:
    """What is wrong with further command-line options for a version, one sentence each.

    For a version that this table does not know nothing is: etcd itself refuses to start with an unknown option.
    """
    minor = minor_of(version)
    found = []
    for flag in sorted(flags):
        name = flag.lstrip("-")
        if name in OWN_FLAGS:
            found.append(f"etcd_extra_flags has {name}, which role etcd sets: use its own variable for it")
            continue
        if name not in _SINCE_UNTIL:
            hint = _similar(name)
            found.append(
                f"etcd_extra_flags has {name}, which no etcd from {OLDEST} to {NEWEST} knows:"
                f" {'did you mean ' + hint + '?' if hint else 'correct it or leave it out'}"
            )
            continue
        since, until = _SINCE_UNTIL[name]
        if minor and _minor(since) > _minor(minor):
            found.append(f"etcd_extra_flags has {name}, which etcd knows from {since} on, not {version}: leave it out")
        elif minor and _minor(minor) > _minor(until) and until != NEWEST:
            instead = _INSTEAD.get(name) or (
                name[len("experimental-") :] if name[len("experimental-") :] in _SINCE_UNTIL else ""
            )
            found.append(
                f"etcd_extra_flags has {name}, which etcd knows up to {until}, not {version}:"
                f" {'write ' + instead if instead else 'leave it out'}"
            )
    return found


def discovery_problem(version: str, protocol: str) -> str:
    """Why members of a version cannot find each other by a discovery protocol; empty when they can or it is unknown."""
    since, until = _SINCE_UNTIL["discovery-token" if protocol == "v3" else "discovery"]
    minor = minor_of(version)
    if not minor or _minor(since) <= _minor(minor) <= _minor(until):
        return ""
    span = f"from {since} on" if protocol == "v3" else f"up to {until}"
    other = "v2" if protocol == "v3" else "v3"
    return (
        f"etcd_discovery_protocol is {protocol}, which etcd knows {span}, not {version}: set it to {other}, or"
        " etcd_bootstrap to static"
    )


def _similar(name: str) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, _SINCE_UNTIL, 1, 0.8)), "")


def upgrade_problems(present: t.Mapping[str, str], target: str) -> list[str]:
    """Why members of these versions cannot all go to the target, one sentence each; empty when they can.

    :param present: version of each member by its name, "" for one that does not say
    """
    wanted = parse(target)
    if wanted is None:
        return [f"the version to go to is {target!r}: give one such as {DEFAULT}"]
    silent = sorted(name for name, version in present.items() if parse(version) is None)
    if silent:
        return [f"the version of {', '.join(silent)} is not known: bring all members up first"]
    seen = {name: t.cast("Version", parse(version)) for name, version in present.items()}
    minors = sorted({version[:2] for version in seen.values()})
    if not minors:
        return []
    oldest, newest = minors[0], minors[-1]
    if wanted[0] != newest[0] or wanted[:2] < oldest or (wanted[:2] < newest and len(minors) == 1):
        return [
            f"members run etcd {newest[0]}.{newest[1]}, and its data are not readable for {target}: stay on"
            f" {newest[0]}.{newest[1]} or later, or restore a snapshot into a new cluster of {target}"
        ]
    if wanted[1] > oldest[1] + 1:
        names = ", ".join(sorted(name for name, version in seen.items() if version[:2] == oldest))
        return [
            f"{names} run etcd {oldest[0]}.{oldest[1]}, and etcd goes up one minor version at a time: go to"
            f" {_step(oldest)} first, then to {target}"
        ]
    if wanted[:2] == oldest:
        return []
    least = _LEAVE_FROM.get(f"{oldest[0]}.{oldest[1]}", "")
    least_version = parse(least) if least else None
    early = sorted(
        name for name, version in seen.items() if version[:2] == oldest and least_version and version < least_version
    )
    if early:
        return [
            f"{', '.join(early)} run etcd {present[early[0]]}: before {minor_of(target)} all members need {least} at"
            f" least, as earlier ones lose members on the way; go to {_newest(oldest, least)} first"
        ]
    return []


def _newest(minor: tuple[int, int], least: str) -> str:
    return FLOORS.get(f"{minor[0]}.{minor[1]}", least)


def _step(oldest: tuple[int, int]) -> str:
    following = f"{oldest[0]}.{oldest[1] + 1}"
    return FLOORS.get(following, following)


def flush_needed(present: t.Iterable[str], target: str) -> bool:
    """Whether members must write a raft snapshot on their present version before the target can read their log."""
    wanted = parse(target)
    versions = [parse(version) for version in present]
    return bool(
        wanted and wanted[:2] >= _FLUSH_BEFORE and any(version and version[:2] < wanted[:2] for version in versions)
    )
