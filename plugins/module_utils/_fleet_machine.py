# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Drains a machine of a fleet, ends that, and sets its metadata.

Which machine is meant (C(choose)) and what to do (C(plan)) are pure functions; C(carry_out) does the requests.
"""

from __future__ import annotations

import typing as t
from contextlib import closing
from dataclasses import dataclass, replace

from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import (
    FleetClient,
    Machine,
    describe_machine,
    fleet_client,
    pause,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    Deadline,
    OptionError,
    check_seconds,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http_stream import LineStream

MACHINE_ID = "/etc/machine-id"
# without events, this often is looked whether a machine is empty; with them, they tell
_POLL_SECONDS = 1.0
_QUIET_SECONDS = 10.0
# a unit that has just left a machine may have no other place for a moment
_GRACE_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """What is to be done: C(drain) is None when nothing is; C(metadata) has "" for a key that is to go."""

    drain: bool | None
    metadata: t.Mapping[str, str]

    @property
    def changes(self) -> bool:
        return self.drain is not None or bool(self.metadata)


def choose(machines: t.Sequence[Machine], wanted: str) -> Machine:
    """The machine whose id begins with what was given.

    :raises OptionError: when none does, or more than one
    """
    found = [machine for machine in machines if machine.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(machine.id[:8] for machine in found or machines) or "none"
    if found:
        raise OptionError(f"machine {wanted!r} is the beginning of several ids ({known}); give more of it")
    raise OptionError(
        f"machine {wanted!r} is not one of the fleet's ({known}); check that it is up and its fleetd runs"
    )


def plan(machine: Machine, drained: bool | None, metadata: t.Mapping[str, str | None]) -> Plan:
    """What a machine lacks of what is wanted."""
    wanted = {key: "" if value is None else str(value) for key, value in metadata.items()}
    return Plan(
        drain=drained if drained is not None and drained != machine.draining else None,
        metadata={key: value for key, value in wanted.items() if machine.metadata.get(key, "") != value},
    )


def after(machine: Machine, todo: Plan) -> Machine:
    """The machine when the plan is carried out."""
    metadata = {key: value for key, value in {**machine.metadata, **todo.metadata}.items() if value}
    draining = machine.draining if todo.drain is None else todo.drain
    return replace(machine, metadata=metadata, draining=draining)


def own_id(path: str = MACHINE_ID) -> str:
    """The id of the machine that this runs on.

    :raises OptionError: when it has none
    """
    try:
        with open(path, encoding="ascii") as handle:
            return handle.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} cannot be read ({error}); give machine") from error


def carry_out(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """The module's result."""
    check_seconds("timeout", params["timeout"])
    with closing(fleet_client(params)) as client:
        machine = choose(client.machines(), params["machine"] or own_id())
        todo = plan(machine, params["drained"], params["metadata"])
        wanted = after(machine, todo)
        result: dict[str, t.Any] = {
            "changed": todo.changes,
            "machine": describe_machine(wanted),
            "diff": {"before": describe_machine(machine), "after": describe_machine(wanted)},
            "homeless": {},
        }
        if check_mode:
            return result
        if todo.metadata:
            client.patch_metadata(machine.id, todo.metadata)
        if todo.drain is not None:
            client.set_drain(machine.id, todo.drain)
        if params["drained"] and params["wait"]:
            # also when it was draining before: whoever began that may not have waited
            result["homeless"] = wait_until_empty(client, machine.id, params["timeout"])
        return result


def wait_until_empty(client: FleetClient, machine: str, seconds: float) -> dict[str, str]:
    """Waits until a machine tells of no unit; returns those that have found no other place, and why.

    :raises ClusterError: when units are left in the end
    """
    deadline = Deadline(seconds)
    events: LineStream | None = None
    looked = False
    moved: set[str] = set()
    while left := {state.name for state in client.states(machine=machine)}:
        moved |= left
        if deadline.passed:
            names = ", ".join(sorted(left))
            fix = "look at why they do not stop, or raise timeout"
            raise ClusterError(f"machine {machine[:8]} still has {names} after {seconds:g} s; {fix}")
        if not looked:
            # what ends between this look and the stream's beginning is seen by the next look
            events, looked = client.events(), True
            continue
        pause(events, deadline.left(), poll=_POLL_SECONDS, patience=_QUIET_SECONDS)
    return _homeless(client, moved, events)


def _homeless(client: FleetClient, moved: set[str], events: LineStream | None) -> dict[str, str]:
    grace = Deadline(_GRACE_SECONDS)
    while True:
        found = (
            {unit.name: unit.reason for unit in client.units() if unit.name in moved and unit.reason} if moved else {}
        )
        if not found or grace.passed:
            return found
        pause(events, grace.left(), poll=_POLL_SECONDS, patience=_QUIET_SECONDS)
