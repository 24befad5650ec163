# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""drain, undrain, metadata, rebalance: what changes machines, or moves units between them."""

from __future__ import annotations

import re
import sys
import time
from typing import Any

from . import wait
from .errors import CtlError, UsageError
from .session import Session, err, out
from .show import metadata_text
from .table import Column, Columns, fields_of, to_text

Json = dict[str, Any]

_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_TELL = 2.0  # seconds between two lines about what is left on a machine
_STAYS = 10.0  # seconds after which a unit that has not left its machine is not going to
_NAMES = 5  # units named in a line that tells what is left


# -- drain ---------------------------------------------------------------------


def _chosen(session: Session, arguments: list[str]) -> list[Json]:
    if not arguments:
        raise UsageError("No machine given")
    return list({machine["id"]: machine for machine in map(session.machine, arguments)}.values())


def drain(session: Session, arguments: list[str]) -> int:
    machines = _chosen(session, arguments)
    for machine in machines:
        session.client.set_drain(machine["id"], True)
    if session.options.on("no-block"):
        for machine in machines:
            out(f"Triggered drain of machine {session.machine_legend(machine['id'])}")
        return 0
    return _Drain(session, machines).run()


def left_text(names: list[str]) -> str:
    """``3 units left: a, b, c``."""
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)} unit{'s' * (len(names) != 1)} left: {', '.join(names[:_NAMES])}{more}"


class _Drain:
    """Waits until machines tell of no unit any more, then says what has found no other place."""

    def __init__(self, session: Session, machines: list[Json]) -> None:
        self._session = session
        self._pending = {machine["id"]: session.machine_legend(machine["id"]) for machine in machines}
        attempts = session.options.number("block-attempts")
        self._end = time.monotonic() + attempts * wait.ROUND if attempts > 0 else None
        self._left: dict[str, list[str]] = {}
        self._told: dict[str, float] = {}
        self._moved: set[str] = set()

    def run(self) -> int:
        events = wait.Events(self._session.client)
        try:
            while self._look():
                if self._end is not None and time.monotonic() >= self._end:
                    for machine, legend in self._pending.items():
                        err(f"Gave up on machine {legend}: {left_text(self._left[machine])}")
                    return 1
                pause = wait.LOOK if self._end is None else max(self._end - time.monotonic(), 0.01)
                events.pause(("state", "machine"), pause)
            self._tell_homeless(events)
        finally:
            events.close()
        return 0

    def _look(self) -> bool:
        """Whether something is left to wait for."""
        for machine, legend in list(self._pending.items()):
            names = [state["name"] for state in self._session.client.states(machine=machine)]
            self._moved.update(names)
            if not names:
                del self._pending[machine]
                out(f"Machine {legend} is drained")
            elif names != self._left.get(machine) and time.monotonic() - self._told.get(machine, -_TELL) >= _TELL:
                self._told[machine] = time.monotonic()
                err(f"Machine {legend}: {left_text(names)}")
            self._left[machine] = names
        return bool(self._pending)

    def _homeless(self) -> dict[str, str]:
        units = self._session.client.units(withReason="1")
        return {unit["name"]: unit["reason"] for unit in units if unit["name"] in self._moved and unit.get("reason")}

    def _tell_homeless(self, events: wait.Events) -> None:
        """A unit may have a reason for a moment, until it has started elsewhere."""
        end = time.monotonic() + wait.REASON_GRACE
        homeless = self._homeless() if self._moved else {}
        while homeless and (left := end - time.monotonic()) > 0:
            events.pause(("target",), left)
            homeless = self._homeless()
        for name, reason in homeless.items():
            err(f"Unit {name} has no other place: {reason}")


def undrain(session: Session, arguments: list[str]) -> int:
    if not arguments:
        raise UsageError("No machine given")
    for argument in arguments:
        # One that is switched off may be let in again too, by its whole id.
        gone = session.find_machine(argument) is None and _MACHINE_ID.fullmatch(argument)
        machine_id = argument if gone else session.machine(argument)["id"]
        session.client.set_drain(machine_id, False)
        out(f"Machine {session.machine_legend(machine_id)} is used again")
    return 0


# -- metadata ------------------------------------------------------------------


def changes_of(words: list[str]) -> dict[str, str]:
    """Values by key of ``key=value`` words; "" takes the key away."""
    changes = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and _METADATA_KEY.fullmatch(key)):
            raise UsageError(
                f"{word!r} is not KEY=VALUE, or KEY= to remove the key; keys are letters, digits, '_', '.' and '-'"
            )
        changes[key] = value
    return changes


def metadata(session: Session, arguments: list[str]) -> int:
    if not arguments:
        raise UsageError("No machine given")
    changes = changes_of(arguments[1:])
    machine = session.machine(arguments[0])
    if changes:
        session.client.patch_metadata(machine["id"], changes)
        session.forget()
    found = session.machines().get(machine["id"])
    if found is None:
        raise CtlError(f"Machine {machine['id']} is not present any more")
    out(metadata_text(found))
    return 0


# -- rebalance -----------------------------------------------------------------


def rebalance(session: Session, arguments: list[str]) -> int:
    if arguments:
        raise UsageError("rebalance takes no arguments")
    options = session.options
    columns: Columns = {
        "unit": Column(lambda m, _full: m["name"], lambda m: m["name"]),
        "from": Column(lambda m, full: session.machine_legend(m["source"], full), lambda m: m["source"]),
        "to": Column(lambda m, full: session.machine_legend(m["target"], full), lambda m: m["target"]),
    }
    fields = fields_of(options, columns)
    moves = session.client.rebalance(options.number("most"), options.on("apply"))
    as_json = options.text("format") == "json"
    if moves or as_json:
        sys.stdout.write(to_text(options, columns, fields, moves))
    if not moves:
        err("No move would even out the machines.")
    elif not options.on("apply"):
        err("Nothing was changed; add --apply to make these moves.")
    elif options.on("no-block"):
        err(f"Asked for {len(moves)} move{'s' * (len(moves) != 1)}; see fleetctl list-units --watch")
    else:
        return _Moves(session, moves).run()
    return 0


class _Moves:
    """Waits until units are what they shall be on the machines they were moved to."""

    def __init__(self, session: Session, moves: list[Json]) -> None:
        self._session = session
        self._pending = {move["name"]: move for move in moves}
        attempts = session.options.number("block-attempts")
        self._begun = time.monotonic()
        self._end = self._begun + attempts * wait.ROUND if attempts > 0 else None
        self._failed = False

    def run(self) -> int:
        events = wait.Events(self._session.client)
        try:
            while self._look():
                left = wait.LOOK if self._end is None else self._end - time.monotonic()
                events.wait(set(self._pending), max(min(left, self._begun + _STAYS - time.monotonic()), 0.1))
        finally:
            events.close()
        return int(self._failed)

    def _look(self) -> bool:
        """Whether something is left to wait for."""
        units, states = wait.read(self._session.client, set(self._pending))
        out_of_time = self._end is not None and time.monotonic() >= self._end
        for name, move in list(self._pending.items()):
            step = self._step(move, units.get(name), states[name])
            if step.kind == "waiting" and out_of_time:
                step = step._replace(kind="failed", text=f"Gave up on the move of {name}: {step.text}")
            if step.kind == "done":
                err(f"Unit {name} is on {self._session.machine_legend(units[name]['machineID'])}")
            elif step.kind != "waiting":
                err(step.text)
                self._failed = True
            if step.kind != "waiting":
                del self._pending[name]
        return bool(self._pending)

    def _step(self, move: Json, unit: Json | None, states: list[Json]) -> wait.Progress:
        name = move["name"]
        if unit is None:
            return wait.Progress("failed", f"Unit {name} was destroyed by somebody else")
        if unit.get("machineID") == move["source"]:
            legend = self._session.machine_legend(move["source"])
            if time.monotonic() - self._begun < _STAYS:
                return wait.Progress("waiting", f"it is on {legend} still")
            return wait.Progress(
                "failed", f"Unit {name} stayed on {legend}: by now it would not be better off elsewhere"
            )
        step = wait.progress(wait.Goal(name, unit.get("desiredState", "launched")), unit, states)
        # A unit that is between two machines has no place for a moment, and one that has run to its end has arrived.
        kinds = {"unplaced": "waiting", "ended": "done"}
        return step._replace(kind=kinds.get(step.kind, step.kind))
