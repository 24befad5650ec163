# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold whatever breaks, checked on what was seen from outside. Pure: records in, violations out.

Three kinds of records come in: the witness log, in which each unit tells itself that it runs; the history of etcd, that
is every change of fleet's keys in order; and the calls of the API. Nothing here asks fleet how it is.

The invariants are named as in docs/faults.md: S1 one assignment, S2 bounded overlap, S3 no needless stop, S4 unknown is
not empty, S5 nothing acknowledged is lost, S6 one leader's effects, S7 isolation, L1 convergence, L2 failover bound,
L3 bounded work.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

BEAT = 0.2
"""Seconds between two lines of a running unit."""


class WitnessError(ValueError):
    """A line of the witness log that no witness writes."""


@dataclass(frozen=True)
class Violation:
    """An invariant that did not hold, and one sentence about how."""

    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.text}"


class Violated(AssertionError):
    """Raised by :func:`require`; ``invariants`` are the names of those that did not hold."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("\n".join(map(str, violations)))
        self.violations = tuple(violations)
        self.invariants = frozenset(violation.invariant for violation in violations)


def require(*found: Iterable[Violation]) -> None:
    """Raise :class:`Violated` when anything was found."""
    violations = [violation for part in found for violation in part]
    if violations:
        raise Violated(violations)


# -- the witness log -----------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line: ``what`` is start, beat or stop; ``time`` is in seconds on the clock that all hosts share."""

    what: str
    unit: str
    host: str
    boot: str
    invocation: str
    time: float


def parse(text: str) -> list[Line]:
    """The lines of one witness log. Raises :class:`WitnessError`."""
    found = []
    for number, raw in enumerate(text.splitlines(), 1):
        parts = raw.split()
        if len(parts) != 6 or parts[0] not in ("start", "beat", "stop"):
            raise WitnessError(f"line {number} of the witness log is {raw!r}")
        found.append(Line(parts[0], parts[1], parts[2], parts[3], parts[4], float(parts[5])))
    return found


@dataclass(frozen=True)
class Run:
    """One life of a unit: what one invocation wrote. It ran at least from ``start`` to ``last``."""

    unit: str
    host: str
    boot: str
    invocation: str
    start: float
    last: float
    stopped: bool
    """It said itself that it stopped; otherwise it was killed, or runs still."""


def runs_of(lines: Iterable[Line]) -> list[Run]:
    """Lives in order of their starts."""
    lives: dict[tuple[str, str, str, str], list[Line]] = {}
    for line in lines:
        lives.setdefault((line.unit, line.host, line.boot, line.invocation), []).append(line)
    found = [
        Run(
            *key,
            start=min(line.time for line in said),
            last=max(line.time for line in said),
            stopped=any(line.what == "stop" for line in said),
        )
        for key, said in lives.items()
    ]
    return sorted(found, key=lambda run: (run.start, run.unit, run.host))


def of(runs: Iterable[Run], unit: str) -> list[Run]:
    return [run for run in runs if run.unit == unit]


def units_in(runs: Iterable[Run]) -> list[str]:
    return sorted({run.unit for run in runs})


def starts(runs: Iterable[Run], unit: str, since: float = 0.0) -> int:
    """How often a unit was started after ``since``."""
    return sum(run.start >= since for run in of(runs, unit))


@dataclass(frozen=True)
class Overlap:
    """Two lives of a unit at one time."""

    first: Run
    second: Run

    @property
    def begin(self) -> float:
        return max(self.first.start, self.second.start)

    @property
    def end(self) -> float:
        return min(self.first.last, self.second.last)

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def overlaps(runs: Sequence[Run], unit: str) -> list[Overlap]:
    """Every pair of lives of the unit that were there at one time, in order."""
    lives = sorted(of(runs, unit), key=lambda run: run.start)
    found = [
        Overlap(first, second)
        for index, first in enumerate(lives)
        for second in lives[index + 1 :]
        if min(first.last, second.last) > max(first.start, second.start)
    ]
    return sorted(found, key=lambda overlap: overlap.begin)


def overlap_seconds(runs: Sequence[Run], unit: str) -> float:
    """For how long at least two lives of the unit were there."""
    total, until = 0.0, float("-inf")
    for overlap in overlaps(runs, unit):
        total += max(0.0, overlap.end - max(overlap.begin, until))
        until = max(until, overlap.end)
    return total


def gaps(runs: Sequence[Run], unit: str, begin: float, end: float, least: float = 1.0) -> list[tuple[float, float]]:
    """(from, to) within begin..end in which no life of the unit wrote anything, those of ``least`` seconds or more."""
    found, covered = [], begin
    for run in sorted(of(runs, unit), key=lambda run: run.start):
        if run.last <= begin:
            continue
        if run.start - covered >= least and covered < end:
            found.append((covered, min(run.start, end)))
        covered = max(covered, run.last)
    if end - covered >= least:
        found.append((covered, end))
    return found


def longest_gap(runs: Sequence[Run], unit: str, begin: float, end: float) -> float:
    return max((to - since for since, to in gaps(runs, unit, begin, end)), default=0.0)


def check_overlap(
    runs: Sequence[Run], units: Iterable[str], windows: Sequence[tuple[float, float]] = ()
) -> Iterator[Violation]:
    """S2: no two lives at one time outside of the windows (from, to)."""
    for unit in units:
        for overlap in overlaps(runs, unit):
            if not any(begin <= overlap.begin and overlap.end <= end for begin, end in windows):
                yield Violation(
                    "S2",
                    f"{unit} ran for {overlap.seconds:.2f} s on {overlap.first.host} and {overlap.second.host} at one "
                    f"time, from {overlap.begin:.2f} to {overlap.end:.2f}; allowed was {_windows(windows)}",
                )


def _windows(windows: Sequence[tuple[float, float]]) -> str:
    return " and ".join(f"{begin:.2f} to {end:.2f}" for begin, end in windows) or "at no time"


def check_lives(runs: Sequence[Run], expected: Mapping[str, int], since: float = 0.0) -> Iterator[Violation]:
    """S3: each unit was started exactly so often after ``since``."""
    for unit, number in sorted(expected.items()):
        seen = starts(runs, unit, since)
        if seen != number:
            lives = ", ".join(f"{run.host} {run.start:.2f}-{run.last:.2f}" for run in of(runs, unit))
            yield Violation("S3", f"{unit} was started {seen} times, not {number}: {lives or 'never'}")


def check_gap(
    runs: Sequence[Run], units: Iterable[str], begin: float, end: float, most: float, invariant: str = "L2"
) -> Iterator[Violation]:
    """L2: within begin..end no unit was away for longer than ``most`` seconds."""
    for unit in units:
        away = longest_gap(runs, unit, begin, end)
        if away > most:
            yield Violation(invariant, f"{unit} was away for {away:.2f} s, allowed are {most:.2f} s")


def check_same(before: Mapping[str, str], after: Mapping[str, str], invariant: str = "S3") -> Iterator[Violation]:
    """S3: what ran before runs still, under the same InvocationID. Maps are "host/unit" to InvocationID."""
    for name, invocation in sorted(before.items()):
        now = after.get(name, "")
        if now != invocation:
            yield Violation(invariant, f"{name} was invocation {invocation} and is {now or 'gone'}")


# -- the history of etcd -------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One change of a key; ``value`` is None when it was removed."""

    revision: int
    key: str
    value: bytes | None


@dataclass
class _Registry:
    """Fleet's keys as they were at one revision, as far as the invariants look at them."""

    is_global: dict[str, bool] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    assigned: dict[str, set[str]] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    leader: int = 0
    """The revision at which ``leader`` was written; 0: nobody leads."""


def _record(value: bytes) -> dict[str, object]:
    """A JSON object, {} for anything else: garbage is a fault that tests inject."""
    try:
        found = json.loads(value)
    except (ValueError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_global(value: bytes) -> bool:
    options = _record(value).get("options", [])
    return isinstance(options, list) and any(
        isinstance(o, list)
        and len(o) == 3
        and o[:2] == ["X-Fleet", "Global"]
        and str(o[2]).strip().lower() in ("true", "yes", "1", "on", "t")
        for o in options
    )


class HistoryChecker:
    """S1 and S6 at every revision of a history that is fed in parts, each revision whole and once, from the first on.

    S1: a unit that is not global is assigned to one machine at most, to the one that is its target, and only while
    that machine is present. S6: what an engine wrote carries the epoch of the leader of that moment.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._registry = _Registry()

    def feed(self, changes: Iterable[Change]) -> list[Violation]:
        """What the next changes violate."""
        return [v for revision, together in _by_revision(changes) for v in self._check(revision, together)]

    def _check(self, revision: int, together: Sequence[Change]) -> Iterator[Violation]:
        registry = self._registry
        before_leader, before_present = registry.leader, set(registry.present)
        touched = set()
        for change in together:
            kind, rest = _split(change.key, self._prefix)
            if kind in ("target", "assign") and change.value is not None:
                yield from _check_writer(change, before_leader, kind, rest)
            if kind == "assign" and change.value is not None:
                machine, _, name = rest.partition("/")
                if machine not in before_present and machine not in registry.assigned.get(name, ()):
                    yield Violation("S1", f"revision {revision} assigns {rest}, and that machine is not present")
            touched.add(_enter(registry, change, kind, rest))
        for name in sorted(touched - {""}):
            yield from _check_unit(registry, name, revision)


def check_history(changes: Iterable[Change], prefix: str) -> list[Violation]:
    """S1 and S6, see :class:`HistoryChecker`; the changes begin with the first one below the prefix."""
    return HistoryChecker(prefix).feed(changes)


def _by_revision(changes: Iterable[Change]) -> Iterator[tuple[int, list[Change]]]:
    together: list[Change] = []
    for change in sorted(changes, key=lambda change: change.revision):
        if together and together[0].revision != change.revision:
            yield together[0].revision, together
            together = []
        together.append(change)
    if together:
        yield together[0].revision, together


def _split(key: str, prefix: str) -> tuple[str, str]:
    kind, _, rest = key.removeprefix(prefix).partition("/")
    return kind, rest


def _enter(registry: _Registry, change: Change, kind: str, rest: str) -> str:
    """Enter a change; returns the unit it concerns, or ""."""
    value = change.value
    if kind == "unit":
        if value is None:
            registry.is_global.pop(rest, None)
        else:
            registry.is_global[rest] = _is_global(value)
        return rest
    if kind == "target":
        registry.targets[rest] = "" if value is None else str(_record(value).get("machine", ""))
        return rest
    if kind == "assign":
        machine, _, name = rest.partition("/")
        machines = registry.assigned.setdefault(name, set())
        machines.discard(machine) if value is None else machines.add(machine)
        return name
    if kind == "presence":
        registry.present.discard(rest) if value is None else registry.present.add(rest)
    elif change.key.endswith("/leader"):
        registry.leader = 0 if value is None else change.revision
    return ""


def _check_writer(change: Change, leader: int, kind: str, rest: str) -> list[Violation]:
    epoch = _record(change.value or b"").get("epoch")
    if not isinstance(epoch, int):
        return []  # not written by an engine: a fault that a test injects
    if epoch == leader:
        return []
    now = f"the leader of epoch {leader}" if leader else "nobody"
    return [
        Violation("S6", f"revision {change.revision}: {kind} of {rest} is from epoch {epoch} when {now} was leading")
    ]


def _check_unit(registry: _Registry, name: str, revision: int) -> Iterator[Violation]:
    machines = registry.assigned.get(name, set())
    if registry.is_global.get(name, False):
        return
    if len(machines) > 1:
        yield Violation("S1", f"revision {revision}: {name} is assigned to {', '.join(sorted(machines))} at one time")
    target = registry.targets.get(name, "")
    if target and machines and machines != {target}:
        held = ", ".join(sorted(machines))
        yield Violation("S1", f"revision {revision}: {name} has target {target} and is assigned to {held}")


def engine_writes(changes: Iterable[Change], prefix: str) -> int:
    """How many changes of targets and assignments there are."""
    return sum(_split(change.key, prefix)[0] in ("target", "assign") for change in changes)


def moves(changes: Iterable[Change], prefix: str) -> dict[str, int]:
    """How often each unit that is not global came to another machine than before."""
    last: dict[str, str] = {}
    found: dict[str, int] = {}
    for change in sorted(changes, key=lambda change: change.revision):
        kind, rest = _split(change.key, prefix)
        if kind == "unit" and change.value is None:
            last.pop(rest, None)
        if kind != "target" or change.value is None:
            continue
        machine = str(_record(change.value).get("machine", ""))
        if machine and last.get(rest, machine) != machine:
            found[rest] = found.get(rest, 0) + 1
        if machine:
            last[rest] = machine
    return found


# -- the API -------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One write of the API: ``tag`` is a text that no other write holds; ``status`` 0 when nothing came back."""

    unit: str
    tag: str
    called: float
    returned: float
    status: int


def check_acknowledged(calls: Sequence[Call], changes: Iterable[Change], prefix: str) -> Iterator[Violation]:
    """S5: every write that was answered with 2xx is in the history exactly once, and in the order of the answers."""
    written: dict[str, list[int]] = {}
    by_tag = {call.tag: call for call in calls}
    for change in changes:
        kind, name = _split(change.key, prefix)
        if kind != "unit" or change.value is None:
            continue
        text = change.value.decode("utf-8", "replace")
        for tag, call in by_tag.items():
            if call.unit == name and tag in text:
                written.setdefault(tag, []).append(change.revision)
    acknowledged = [call for call in calls if 200 <= call.status < 300]
    for call in acknowledged:
        revisions = written.get(call.tag, [])
        if len(revisions) != 1:
            yield Violation(
                "S5",
                f"write {call.tag} of {call.unit} was answered {call.status} and is {len(revisions)} times in etcd",
            )
    yield from _check_order([call for call in acknowledged if len(written.get(call.tag, [])) == 1], written)


def _check_order(calls: Sequence[Call], written: Mapping[str, list[int]]) -> Iterator[Violation]:
    for earlier in calls:
        for later in calls:
            both = earlier.unit == later.unit and earlier.returned < later.called
            if both and written[earlier.tag][0] > written[later.tag][0]:
                text = f"write {earlier.tag} of {earlier.unit} came after {later.tag}, which began when it was answered"
                yield Violation("S5", text)


# -- the end -------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """What a unit shall be: its desired state, and the machines that run it (0: any one)."""

    desired: str
    copies: int = 1


def check_converged(
    wanted: Mapping[str, Wanted],
    systemd: Mapping[str, Mapping[str, str]],
    api: Mapping[str, Mapping[str, str]],
    files: Mapping[str, Iterable[str]],
) -> Iterator[Violation]:
    """L1: what is wanted = what systemd on the hosts says = what the API says, and no other file is there.

    ``systemd`` and ``api`` map host to unit to active state; ``files`` host to the names in its folder of units.
    """
    for name, want in sorted(wanted.items()):
        active = sorted(host for host, units in systemd.items() if units.get(name) == "active")
        copies = want.copies if want.desired == "launched" else 0
        if len(active) != copies:
            yield Violation("L1", f"{name} is active on {', '.join(active) or 'no host'}, wanted are {copies} copies")
        shown = sorted(host for host, units in api.items() if units.get(name) == "active")
        if shown != active:
            yield Violation(
                "L1", f"the API shows {name} as active on {shown or 'no host'}, systemd on {active or 'no host'}"
            )
    for host, units in sorted(systemd.items()):
        for name, state in sorted(units.items()):
            if name not in wanted and state in ("active", "activating", "deactivating"):
                yield Violation("L1", f"{name} is {state} on {host}, and nobody wants it")
    kept = {name for name, want in wanted.items() if want.desired != "inactive"}
    for host, names in sorted(files.items()):
        for name in sorted(set(names) - kept):
            yield Violation("L1", f"the file of {name} is left on {host}, and nobody wants it")
