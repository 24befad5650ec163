# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""submit, load, start, stop, unload, destroy: what changes units."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..unitfile import UnitFileError, UnitOption, check_options, check_requirements, parse_unit, requirements, unit_hash
from ..unitname import UnitNameError, is_instance, is_template, template_of, validate_unit_name
from .errors import CtlError, UsageError
from .session import Session, err, mangle, out
from .show import is_global, options_of
from .wait import SOMEWHERE, Goal, Outcome, Waiter

Json = dict[str, Any]

LEVELS = ("inactive", "loaded", "launched")
_FILE_MAX = 1024 * 1024  # bytes; the server takes no more


# -- where units come from -----------------------------------------------------


class Plan(NamedTuple):
    """What a command does to one unit: the options to write (None: leave them), and those it will have."""

    name: str
    write: list[UnitOption] | None
    options: list[UnitOption]
    stored: Json | None


def read_file(path: str) -> list[UnitOption] | None:
    """The options of a unit file; None when there is no such file."""
    try:
        with open(path, "rb") as file:
            data = file.read(_FILE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CtlError(f"Error creating units: cannot read {path}: {exc.strerror}") from None
    if len(data) > _FILE_MAX:
        raise CtlError(f"Error creating units: {path} is larger than {_FILE_MAX} bytes")
    try:
        options = parse_unit(data)
        check_options(options)
        check_requirements(options)
    except UnitFileError as exc:
        raise CtlError(f"Error creating units: {path}: {exc}") from None
    if not options:
        raise CtlError(f"Error creating units: {path} has no options")
    return options


class _Files:
    """Unit files on this machine by the argument that names them; templates beside them."""

    def __init__(self, argument: str) -> None:
        self.name = mangle(argument)
        self.folder = os.path.dirname(argument)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def own(self) -> list[UnitOption] | None:
        return read_file(self.path(self.name))

    def template(self) -> list[UnitOption] | None:
        return read_file(self.path(template_of(self.name))) if is_instance(self.name) else None


def _plan_existing(session: Session, files: _Files, argument: str, unit: Json, level: str) -> Plan:
    name, stored = files.name, options_of(unit)
    local = files.own()
    shown = argument
    if local is None:
        local, shown = files.template(), files.path(template_of(name))
    if local is None or unit_hash(local) == unit_hash(stored):
        return Plan(name, None, stored, unit)
    if not session.options.on("replace"):
        err(f"WARNING: Unit {name} in registry differs from local unit file {shown}. Add --replace to override.")
        return Plan(name, None, stored, unit)
    if LEVELS.index(unit.get("desiredState", "inactive")) > LEVELS.index(level):
        err(f"Warning: can not replace Unit({name}) in state '{unit['desiredState']}', use the appropriate command")
        return Plan(name, None, stored, unit)
    return Plan(name, local, local, unit)


def _content_for(session: Session, files: _Files, templates: dict[str, Json | None]) -> list[UnitOption]:
    """The content of a unit to create; ``templates`` are those read from the registry so far."""
    options = files.own()
    if options is None and is_instance(files.name):
        name = template_of(files.name)
        if name not in templates:
            templates[name] = session.client.unit(name)
        template = templates[name]
        options = options_of(template) if template is not None else files.template()
    if options is None:
        raise CtlError(f"Error creating units: unable to find Unit({files.name}) in Registry or on filesystem")
    return options


def _warn_of_requirements(name: str, options: Iterable[UnitOption]) -> None:
    needs = requirements(name, options)
    for key in needs.unknown:
        err(f'WARNING: Unit {name}: unrecognized requirement in [X-Fleet] section: "{key}"')
    for text in needs.ignored:
        err(f'WARNING: Unit {name}: MachineMetadata "{text}" is not key=value and has no effect')


def _plans(session: Session, arguments: list[str], level: str) -> list[Plan]:
    """What to write for each argument. Everything is read and checked before anything is written."""
    by_name: dict[str, tuple[_Files, str]] = {}
    for argument in arguments:
        files = _Files(argument)
        by_name.setdefault(files.name, (files, argument))
        try:
            validate_unit_name(files.name)
        except UnitNameError as exc:
            raise CtlError(f"Error creating units: {argument}: {exc}") from None
        if level != "inactive" and is_template(files.name):
            verb = {"loaded": "loading", "launched": "starting"}[level]
            raise CtlError(f'Error {verb} units: cannot activate template "{files.name}"')
    stored = session.units_by_name(list(by_name))
    templates: dict[str, Json | None] = {}
    plans = []
    for name, (files, argument) in by_name.items():
        if name in stored:
            plan = _plan_existing(session, files, argument, stored[name], level)
        else:
            options = _content_for(session, files, templates)
            plan = Plan(name, options, options, None)
        if plan.write is not None:
            _warn_of_requirements(name, plan.write)
        plans.append(plan)
    return plans


def _write(session: Session, plan: Plan, state: str) -> None:
    body: Json = {"name": plan.name, "desiredState": state}
    if plan.write is not None:
        body["options"] = [option._asdict() for option in plan.write]
    session.client.put_unit(plan.name, body)


def _need_units(arguments: list[str]) -> None:
    if not arguments:
        raise UsageError("No units given")


# -- waiting -------------------------------------------------------------------


def _wait(session: Session, goals: list[Goal]) -> list[Outcome]:
    """Wait for all goals, say what is reached and what went wrong."""

    def reached(unit: Json) -> None:
        state = unit.get("currentState", "inactive")
        where = f" on {session.machine_legend(unit['machineID'])}" if unit.get("machineID") else ""
        out(f"Unit {unit['name']} {state}{where}")

    attempts = session.options.number("block-attempts")
    outcomes = Waiter(session.client, attempts, reached, err).wait(goals)
    for outcome in outcomes:
        if outcome.text:
            err(outcome.text)
    return outcomes


def finish(session: Session, goals: list[Goal], verb: str) -> int:
    """Wait, or with --no-block only say what was set going."""
    if session.options.on("no-block"):
        for goal in goals:
            out(f"Triggered unit {goal.name} {verb}")
        return 0
    return 0 if all(outcome.ok for outcome in _wait(session, goals)) else 1


# -- commands ------------------------------------------------------------------


def submit(session: Session, arguments: list[str]) -> int:
    _need_units(arguments)
    for plan in _plans(session, arguments, "inactive"):
        if plan.write is not None:
            _write(session, plan, "inactive")
            out(f"Unit {plan.name} inactive")
    return 0


def _raise_to(session: Session, arguments: list[str], state: str, verb: str) -> int:
    _need_units(arguments)
    goals, spread = [], []
    for plan in _plans(session, arguments, state):
        changes = plan.write is not None or (plan.stored or {}).get("desiredState") != state
        if changes:
            _write(session, plan, state)
        if requirements(plan.name, plan.options).is_global:
            if changes:
                out(f"Triggered global unit {plan.name} {verb}")
                spread.append(Goal(plan.name, SOMEWHERE))
        else:
            goals.append((Goal(plan.name, state, unit_hash(plan.options)), changes))
    if session.options.on("no-block"):
        return finish(session, [goal for goal, changes in goals if changes], verb)
    # A global unit is not waited for until it is up, only until it is clear that there is a machine for it.
    return finish(session, [*_unless_there(session, goals), *spread], verb)


def _unless_there(session: Session, goals: list[tuple[Goal, bool]]) -> list[Goal]:
    """Without the units that nothing was changed of and that are what they shall be: nothing is said of those."""
    from .wait import progress, read

    same = {goal.name for goal, changes in goals if not changes}
    if not same:
        return [goal for goal, _changes in goals]
    units, states = read(session.client, same)

    def is_there(goal: Goal) -> bool:
        return progress(goal, units.get(goal.name), states[goal.name]).kind in ("done", "ended")

    return [goal for goal, _changes in goals if goal.name not in same or not is_there(goal)]


def load(session: Session, arguments: list[str]) -> int:
    return _raise_to(session, arguments, "loaded", "load")


def start(session: Session, arguments: list[str]) -> int:
    return _raise_to(session, arguments, "launched", "start")


def verify(_session: Session, _arguments: list[str]) -> int:
    """Of upstream, where it had lost its meaning already."""
    raise UsageError("verify is gone, as units are not signed any more; compare hashes: list-unit-files --full")


def existing(session: Session, arguments: list[str]) -> list[Json]:
    """The units named, which must all exist."""
    _need_units(arguments)
    names = list(dict.fromkeys(mangle(argument) for argument in arguments))
    units = session.units_by_name(names)
    missing = [name for name in names if name not in units]
    if missing:
        raise CtlError(f"Unit {missing[0]} does not exist")
    return [units[name] for name in names]


def set_state(session: Session, unit: Json, state: str) -> None:
    session.client.put_unit(unit["name"], {"name": unit["name"], "desiredState": state})


def stop(session: Session, arguments: list[str]) -> int:
    units = existing(session, arguments)
    for unit in units:
        wanted = unit.get("desiredState") == "launched" or is_global(unit)
        if unit.get("currentState", "inactive") == "inactive" and not wanted:
            raise CtlError(f"Unable to stop unit {unit['name']} in state inactive")
    goals, done = [], []
    for unit in units:
        if is_global(unit):
            set_state(session, unit, "loaded")
            out(f"Triggered global unit {unit['name']} stop")
        elif unit.get("desiredState") == "launched" or unit.get("currentState") == "launched":
            set_state(session, unit, "loaded")
            done.append(unit["name"])
            if unit.get("machineID"):  # one that was never placed has nothing to stop
                goals.append(Goal(unit["name"], "loaded"))
    return _lowered(session, goals, done, "stop", "stopped")


def unload(session: Session, arguments: list[str]) -> int:
    goals = []
    for unit in existing(session, arguments):
        if unit.get("desiredState", "inactive") == "inactive" and unit.get("currentState", "inactive") == "inactive":
            continue
        set_state(session, unit, "inactive")
        if is_global(unit):
            out(f"Triggered global unit {unit['name']} unload")
        else:
            goals.append(Goal(unit["name"], "inactive"))
    return _lowered(session, goals, [goal.name for goal in goals], "unload", "unloaded")


def _lowered(session: Session, goals: list[Goal], names: list[str], verb: str, done: str) -> int:
    status = finish(session, goals, verb)
    if status == 0 and names:
        err(f"Successfully {done} units [{' '.join(names)}].")
    return status


def destroy(session: Session, arguments: list[str]) -> int:
    _need_units(arguments)
    names = list(dict.fromkeys(mangle(argument) for argument in arguments))
    removed = []
    for name in names:
        if session.client.delete_unit(name):
            out(f"Destroyed {name}")
            removed.append(name)
        elif len(names) > 1:
            err(f"Unit {name} not found in registry")
    if not removed:
        err("Units not found in registry")
    if session.options.number("block-attempts") > 0 and not session.options.on("no-block"):
        failed = [
            o
            for o in Waiter(session.client, session.options.number("block-attempts"), lambda unit: None, err).wait(
                [Goal(name, "inactive") for name in removed]
            )
            if not o.ok
        ]
        for outcome in failed:
            err(outcome.text)
        return 1 if failed else 0
    return 0
