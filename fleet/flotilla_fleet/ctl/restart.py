# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""restart: where the units are, one after the other."""

from __future__ import annotations

from typing import Any

from . import wait
from .change import existing, finish, set_state
from .errors import CtlError
from .remote import Errand, each_machine, machines_of, send, split_place
from .session import Session, err
from .show import is_global
from .wait import Goal

Json = dict[str, Any]


def _restart_errand(session: Session, name: str) -> Errand:
    """Restarting takes as long as the unit takes to stop, unless the user says how long."""
    attempts = session.options.number("block-attempts")
    return Errand("restart", ["systemctl", "restart", "--", name], attempts * wait.ROUND if attempts > 0 else None)


def restart(session: Session, arguments: list[str]) -> int:
    """One after the other, so that instances of one service are never all down."""
    places = list(dict.fromkeys(split_place(argument) for argument in arguments))
    units = {unit["name"]: unit for unit in existing(session, [name for name, _place in places])}
    for unit in units.values():
        if unit.get("desiredState") != "launched":
            raise CtlError(
                f"Unable to restart unit {unit['name']} in state {unit.get('desiredState', 'inactive')}: "
                f"it is not started, use fleetctl start {unit['name']}"
            )
    for name, place in places:
        status = _restart(session, units[name], f"{name}@{place}" if place else name)
        if status:
            return status
        err(f"Unit {name} was restarted.")
    return 0


def _restart(session: Session, unit: Json, argument: str) -> int:
    """By systemctl where the unit is; with upstream's fleetd, which cannot ask for that, by stop and start."""
    name, found = unit["name"], machines_of(session, argument)
    errand = _restart_errand(session, name)
    if is_global(unit) or session.options.on("ssh"):
        return each_machine(session, found, errand, until_failure=True)
    answer = send(session, errand, name, found.machines[0])
    if answer is None:
        set_state(session, unit, "loaded")
        status = finish(session, [Goal(name, "loaded")], "stop")
        if status:
            return status
        set_state(session, unit, "launched")
    elif answer.code:
        err(answer.text.rstrip("\n") or f"systemctl restart {name} ended with status {answer.code}")
        return answer.code
    return finish(session, [Goal(name, "launched")], "start")
