# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Brings units of a fleet to what is wanted, and waits until they are there.

What is asked (C(parse_units)), what to do (C(plan)) and whether a state is reached (C(judge)) are pure
functions; C(fetch), C(execute) and C(wait) do the requests.
"""

from __future__ import annotations

import time
import typing as t
from contextlib import closing
from dataclasses import dataclass

from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import (
    FleetClient,
    Machine,
    Unit,
    UnitState,
    describe,
    fleet_client,
    pause,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    Deadline,
    OptionError,
    check_seconds,
    printable,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http_stream import LineStream
from ansible_collections.flotilla.cluster.plugins.module_utils._unit_file import (
    Requirements,
    UnitFileError,
    UnitOption,
    check_options,
    check_requirements,
    parse_unit,
    requirements,
    serialize,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._unit_name import (
    UnitNameError,
    append_suffix,
    is_template,
    template_of,
    validate_unit_name,
)

STATES = ("inactive", "loaded", "launched", "absent")
# what a unit has that is read, beside its name
FIELDS = ("content", "current_state", "desired_state", "hash", "machine_id", "options", "reason", "states")

# up to so many names are asked for one by one; above, the whole list is less work for both sides
_FEW = 5
# systemd states in which something of the unit still runs, or is about to
_RUNNING = ("active", "activating", "deactivating", "reloading")
# a state "failed" of before the start stands until systemd has begun it
FAILED_SECONDS = 3.0
# how often a unit that never came up may be seen between two tries, and how far apart that counts as another one
MOST_TRIES = 3
TRY_SECONDS = 1.0
_POLL_SECONDS = 0.5
# events are only wake-ups; should one be lost, this is how long nobody notices: the longer it is quiet, the longer
_QUIET_SECONDS = (1.0, 2.0, 4.0, 8.0)
# several events come together when several units change
_GATHER_SECONDS = 0.05
_MOST_TOLD = 5


class WaitError(ClusterError):
    """Units that did not come to the state asked for."""


@dataclass(frozen=True)
class WantedUnit:
    """One unit asked for; C(options) None: its stored content, or its template's."""

    name: str
    state: str
    options: tuple[UnitOption, ...] | None


@dataclass(frozen=True)
class Action:
    """What is to be done for one unit, C(none) if nothing; C(options) are those it has afterwards."""

    name: str
    kind: str
    state: str
    options: tuple[UnitOption, ...]
    before: Unit | None

    @property
    def sends_content(self) -> bool:
        return self.kind in ("created", "replaced")


def parse_units(params: t.Mapping[str, t.Any]) -> list[WantedUnit]:
    """The units asked for, in their order.

    :param params: either C(name), C(content) and C(state), or a list of such in C(units)
    :raises OptionError: for a name or a content that no fleet takes
    """
    entries = params["units"] if params["units"] is not None else [params]
    wanted = [_parse_unit(entry) for entry in entries]
    names: set[str] = set()
    for unit in wanted:
        if unit.name in names:
            raise OptionError(f"unit {unit.name} is given twice; keep one of them")
        names.add(unit.name)
    return wanted


def _parse_unit(entry: t.Mapping[str, t.Any]) -> WantedUnit:
    name = append_suffix(entry["name"])
    try:
        validate_unit_name(name)
    except UnitNameError as error:
        raise OptionError(f"{printable(name)!r} cannot be the name of a unit: {error}; correct the name") from error
    state = entry["state"]
    if is_template(name) and state in ("loaded", "launched"):
        raise OptionError(
            f"{name} is a template, which cannot be {state}; store it with state=inactive, and start an"
            f" instance of it such as {name.replace('@', '@1', 1)}"
        )
    if entry["content"] is None or state == "absent":
        return WantedUnit(name, state, None)
    try:
        options = parse_unit(entry["content"])
        if not options:
            raise UnitFileError("it holds no option")
        check_options(options)
        check_requirements(options)
    except UnitFileError as error:
        raise OptionError(f"the content of unit {name} is no unit file: {error}; correct it") from error
    return WantedUnit(name, state, tuple(options))


def doubts(wanted: t.Iterable[WantedUnit]) -> list[str]:
    """What fleet takes and does not act on, one sentence each; worth a warning."""
    found = []
    for unit in wanted:
        needs = requirements(unit.name, unit.options or ())
        found += [
            f"unit {unit.name}: fleet knows no option {printable(key)!r} in section [X-Fleet]" for key in needs.unknown
        ]
        found += [
            f"unit {unit.name}: fleet ignores MachineMetadata {printable(text)!r}, which is not key=value"
            for text in needs.ignored
        ]
    return found


def names_to_fetch(wanted: t.Sequence[WantedUnit]) -> list[str]:
    """The units to look at before deciding: those asked for, and templates that may give them content."""
    names = [unit.name for unit in wanted]
    given = set(names)
    for unit in wanted:
        template = template_of(unit.name)
        if unit.options is None and unit.state != "absent" and template and template not in given:
            given.add(template)
            names.append(template)
    return names


def plan(wanted: t.Sequence[WantedUnit], stored: t.Mapping[str, Unit]) -> list[Action]:
    """What to do, in the order asked.

    :param stored: the units of C(names_to_fetch) that exist
    :raises OptionError: for a unit that has no content anywhere
    """
    contents = {unit.name: unit.options for unit in wanted if unit.options is not None}
    return [_action(unit, stored, contents) for unit in wanted]


def _action(
    wanted: WantedUnit,
    stored: t.Mapping[str, Unit],
    contents: t.Mapping[str, tuple[UnitOption, ...]],
) -> Action:
    before = stored.get(wanted.name)
    if wanted.state == "absent":
        return Action(wanted.name, "none" if before is None else "deleted", "absent", (), before)
    options = wanted.options
    if options is None and before is not None:
        options = before.options
    if options is None:
        options = _template_content(wanted.name, stored, contents)
    if before is None:
        kind = "created"
    elif serialize(before.options) != serialize(options):
        kind = "replaced"
    else:
        kind = "none" if before.desired_state == wanted.state else "state"
    return Action(wanted.name, kind, wanted.state, options, before)


def _template_content(
    name: str, stored: t.Mapping[str, Unit], contents: t.Mapping[str, tuple[UnitOption, ...]]
) -> tuple[UnitOption, ...]:
    template = template_of(name)
    if template in contents:
        return contents[template]
    if template in stored and template != name:
        return stored[template].options
    if template and template != name:
        raise OptionError(
            f"unit {name} does not exist, and neither does its template {template}; give content for one of them"
        )
    raise OptionError(f"unit {name} does not exist; give its content")


def diff_of(actions: t.Iterable[Action]) -> list[dict[str, str]]:
    """The text of each unit that changes, with its desired state above it."""
    return [
        {
            "before_header": action.name,
            "after_header": action.name,
            "before": ""
            if action.before is None
            else _state_and_text(action.before.desired_state, action.before.options),
            "after": "" if action.kind == "deleted" else _state_and_text(action.state, action.options),
        }
        for action in actions
        if action.kind != "none"
    ]


def _state_and_text(state: str, options: t.Sequence[UnitOption]) -> str:
    return f"# desired state: {state}\n{serialize(options)}"


@dataclass(frozen=True)
class Verdict:
    """Whether a unit is where it should be.

    C(failed) names the machine on which systemd gave up, C(looping) the one on which it is about to try again.
    """

    reached: bool
    seen: str
    failed: str = ""
    looping: str = ""


@dataclass(frozen=True)
class Observation:
    """What the cluster says of some units at one time."""

    units: t.Mapping[str, Unit]
    states: t.Sequence[UnitState]
    machines: t.Sequence[Machine]


def judge(action: Action, seen: Observation) -> Verdict:
    """Whether the state that the action asks for holds, systemd's part of it included."""
    unit = seen.units.get(action.name)
    states = [state for state in seen.states if state.name == action.name]
    if action.state == "absent":
        return Verdict(unit is None and not states, _seen(unit, states))
    if unit is None:
        return Verdict(False, "no such unit")
    needs = requirements(unit.name, unit.options)
    if needs.is_global:
        return _judge_global(action, unit, states, _matching(needs, seen.machines))
    if action.state == "inactive":
        return Verdict(unit.current_state == "inactive" and not states, _seen(unit, states))
    current = [state for state in states if state.machine_id == unit.machine_id and _current(state, unit)]
    if action.state == "loaded":
        quiet = bool(current) and all(state.active not in _RUNNING for state in states)
        return Verdict(unit.current_state == "loaded" and quiet, _seen(unit, states))
    up = any(_up(state, unit) for state in current)
    return Verdict(unit.current_state == "launched" and up, _seen(unit, states), *_trouble(current))


def _judge_global(
    action: Action, unit: Unit, states: t.Sequence[UnitState], machines: t.Sequence[Machine] | None
) -> Verdict:
    """A global unit has no machine of its own: what holds for it must hold on every machine that it fits."""
    if action.state == "inactive":
        return Verdict(not states, _seen(unit, states))
    ids = {state.machine_id for state in states} if machines is None else {machine.id for machine in machines}
    by_machine = {state.machine_id: state for state in states if _current(state, unit)}
    missing = sorted(ids - by_machine.keys())
    there = [by_machine[machine] for machine in sorted(ids & by_machine.keys())]
    if machines is None and not there:
        return Verdict(False, _seen(unit, states))
    if missing:
        return Verdict(False, f"no systemd state from machine {missing[0][:8]}" + _because(unit))
    if action.state == "loaded":
        return Verdict(all(state.active not in _RUNNING for state in there), _seen(unit, there))
    return Verdict(all(_up(state, unit) for state in there), _seen(unit, there), *_trouble(there))


def _trouble(states: t.Sequence[UnitState]) -> tuple[str, str]:
    """Machines on which the unit has failed, and on which it is between two tries."""
    failed = next((state.machine_id for state in states if state.active == "failed"), "")
    return failed, next((state.machine_id for state in states if state.sub == "auto-restart"), "")


def _matching(needs: Requirements, machines: t.Sequence[Machine]) -> list[Machine] | None:
    """Machines that a global unit runs on; None when conflicts make that the cluster's own decision."""
    if needs.conflicts:
        return None
    return [
        machine for machine in machines if all(machine.metadata.get(key) in values for key, values in needs.metadata)
    ]


def _current(state: UnitState, unit: Unit) -> bool:
    """Whether a state is about the unit's present content, not about what it replaced."""
    return not state.hash or state.hash == unit.hash


def _up(state: UnitState, unit: Unit) -> bool:
    if state.active in ("active", "reloading"):
        return True
    return state.active == "inactive" and state.sub == "dead" and state.load == "loaded" and _runs_once(unit)


def _runs_once(unit: Unit) -> bool:
    """Whether the unit ends by itself when all is well, and is inactive again then."""
    service = {option.name: option.value for option in unit.options if option.section == "Service"}
    stays = service.get("RemainAfterExit", "").lower() in ("1", "yes", "true", "on", "t", "y")
    return service.get("Type") == "oneshot" and not stays


def _seen(unit: Unit | None, states: t.Sequence[UnitState]) -> str:
    """What there is instead of what was asked, for people."""
    if unit is None:
        words = "no unit"
    else:
        words = f"current state {unit.current_state or 'not told'}"
        if unit.machine_id:
            words += f" on machine {printable(unit.machine_id[:8])}"
    if states:
        state = next((state for state in states if state.active != "active"), states[0])
        words += f", systemd on {printable(state.machine_id[:8])} says {printable(f'{state.active}/{state.sub}')}"
    elif unit is not None and unit.current_state != "inactive":
        words += ", no systemd state published"
    return words + ("" if unit is None else _because(unit))


def _because(unit: Unit) -> str:
    return f", because {printable(unit.reason)}" if unit.reason else ""


def fetch(client: FleetClient, names: t.Sequence[str]) -> dict[str, Unit]:
    """The units of these names that exist."""
    if len(names) <= _FEW:
        units = [client.unit(name) for name in names]
        return {unit.name: unit for unit in units if unit is not None}
    wanted = set(names)
    return {unit.name: unit for unit in client.units() if unit.name in wanted}


def _states(client: FleetClient, names: t.Sequence[str]) -> list[UnitState]:
    """What the machines say of these units, and perhaps of others."""
    if len(names) > _FEW:
        return client.states()
    return [state for name in names for state in client.states(unit=name)]


def observe(client: FleetClient, actions: t.Sequence[Action]) -> Observation:
    """All that C(judge) needs for these."""
    names = [action.name for action in actions]
    units = fetch(client, names)
    spread = any(requirements(unit.name, unit.options).is_global for unit in units.values())
    return Observation(units, _states(client, names), client.machines() if spread else ())


def execute(client: FleetClient, actions: t.Iterable[Action]) -> None:
    """Sends what is to be done."""
    for action in actions:
        if action.kind == "deleted":
            client.delete_unit(action.name)
        elif action.kind != "none":
            client.put_unit(action.name, action.state, action.options if action.sends_content else None)


def wait(client: FleetClient, actions: t.Sequence[Action], seconds: float) -> Observation:
    """Waits until every unit is where it should be: on the API's events, or where it has none by asking.

    :returns: what was seen of all of them, of each when it was there
    :raises WaitError: when one is not there in time, or systemd has given up on it
    """
    deadline = Deadline(seconds)
    pending = list(actions)
    failing: dict[str, float] = {}
    tries: dict[str, list[float]] = {}
    events: LineStream | None = None
    looked = False
    quiet = 0
    units: dict[str, Unit] = {}
    states: dict[str, list[UnitState]] = {}
    while True:
        seen = observe(client, pending)
        units.update(seen.units)
        for action in pending:
            states[action.name] = [state for state in seen.states if state.name == action.name]
        verdicts = {action.name: judge(action, seen) for action in pending}
        pending = [action for action in pending if not verdicts[action.name].reached]
        if not pending:
            return Observation(units, [state for own in states.values() for state in own], ())
        _give_up_on_failed(client, pending, verdicts, failing)
        _give_up_on_looping(client, pending, verdicts, tries)
        if deadline.passed:
            raise WaitError(_too_late(client, pending, verdicts, seconds))
        if not looked:
            # what changes between this look and the stream's beginning is seen by the next look
            events = client.events()
            looked = True
            if events is not None:
                continue
        patience = 1.0 if failing else _QUIET_SECONDS[min(quiet, len(_QUIET_SECONDS) - 1)]
        told = pause(events, deadline.left(), poll=_POLL_SECONDS, patience=patience, gather=_GATHER_SECONDS)
        quiet = 0 if told else quiet + 1


def _give_up_on_failed(
    client: FleetClient,
    pending: t.Iterable[Action],
    verdicts: t.Mapping[str, Verdict],
    failing: dict[str, float],
) -> None:
    """Raises for a unit that systemd has called failed for a while; C(failing) remembers since when."""
    for action in pending:
        machine = verdicts[action.name].failed
        if not machine:
            failing.pop(action.name, None)
        elif time.monotonic() - failing.setdefault(action.name, time.monotonic()) >= FAILED_SECONDS:
            raise WaitError(
                f"unit {action.name} failed on machine {printable(machine[:8])} ({client.endpoint}):"
                f" {verdicts[action.name].seen}; look at it with: fleetctl journal {action.name}"
            )


def _give_up_on_looping(
    client: FleetClient,
    pending: t.Iterable[Action],
    verdicts: t.Mapping[str, Verdict],
    tries: dict[str, list[float]],
) -> None:
    """Raises for a unit that ends again and again before it is up; C(tries) remembers when that was seen."""
    now = time.monotonic()
    for action in pending:
        machine, seen = verdicts[action.name].looping, tries.setdefault(action.name, [])
        if machine and (not seen or now - seen[-1] >= TRY_SECONDS):
            seen.append(now)
        if len(seen) >= MOST_TRIES:
            raise WaitError(
                f"unit {action.name} ends again and again before it is up on machine {printable(machine[:8])}"
                f" ({client.endpoint}): {verdicts[action.name].seen}; look at it with: fleetctl journal {action.name}"
            )


def _too_late(
    client: FleetClient,
    pending: t.Sequence[Action],
    verdicts: t.Mapping[str, Verdict],
    seconds: float,
) -> str:
    told = "; ".join(
        f"unit {action.name} is not {action.state}: {verdicts[action.name].seen}" for action in pending[:_MOST_TOLD]
    )
    more = len(pending) - _MOST_TOLD
    if more > 0:
        told += f"; and {more} more"
    return f"after {seconds:g} s at {client.endpoint}: {told}; correct that, raise timeout, or set wait=false"


def results(actions: t.Sequence[Action], seen: Observation | None) -> list[dict[str, t.Any]]:
    """What the module returns for each unit.

    :param seen: what there is in the end; None in check mode, where it cannot be known
    """
    found = []
    for action in actions:
        unit = None if seen is None else seen.units.get(action.name)
        if unit is not None and seen is not None:
            found.append({"action": action.kind, **describe(unit, seen.states)})
        else:
            found.append({"action": action.kind, "name": action.name, "desired_state": action.state})
    return found


def run(params: t.Mapping[str, t.Any], wanted: t.Sequence[WantedUnit], *, check: bool, diff: bool) -> dict[str, t.Any]:
    """What the module does and returns."""
    seconds = params["timeout"]
    check_seconds("timeout", seconds)
    seen: Observation | None = None
    with closing(fleet_client(params)) as client:
        actions = plan(wanted, fetch(client, names_to_fetch(wanted)))
        if not check:
            execute(client, actions)
            seen = wait(client, actions, seconds) if params["wait"] else observe(client, actions)
    result: dict[str, t.Any] = {
        "changed": any(action.kind != "none" for action in actions),
        "units": results(actions, seen),
    }
    if diff:
        result["diff"] = diff_of(actions)
    return result


def read_units(params: t.Mapping[str, t.Any]) -> list[dict[str, t.Any]]:
    """What the info module returns: the units named, or all of them, by name, with all fields or those asked for."""
    fields = FIELDS if params["fields"] is None else tuple(params["fields"])
    with closing(fleet_client(params)) as client:
        if params["names"] is None:
            units = {unit.name: unit for unit in client.units()}
            states = client.states() if "states" in fields else []
        else:
            names = list(dict.fromkeys(append_suffix(name) for name in params["names"]))
            units = fetch(client, names)
            states = _states(client, names) if "states" in fields else []
    return [_read(units[name], states, fields) for name in sorted(units)]


def _read(unit: Unit, states: t.Sequence[UnitState], fields: t.Sequence[str]) -> dict[str, t.Any]:
    described = describe(unit, states)
    if "content" in fields:
        described["content"] = serialize(unit.options)
    if "options" in fields:
        described["options"] = [option._asdict() for option in unit.options]
    return {"name": unit.name, **{field: described[field] for field in fields}}
