# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of fleet must do with any fleet: the same calls for this collection's daemon and for upstream's."""

from __future__ import annotations

import typing as t
from collections.abc import Callable, Sequence

TEXT = "[Service]\nExecStart=/bin/sleep infinity\n"

Run = Callable[..., dict[str, t.Any]]
Running = Callable[[str], Sequence[str]]
"""The machines on which systemd runs a unit, by name of the unit."""


def life_of_a_unit(run_module: Run, endpoint: str, running: Running, machine_of: Callable[[str], str]) -> None:
    """Created, left alone, replaced, loaded, stored, deleted. ``machine_of`` names the machine with an id."""

    def unit(**more: t.Any) -> dict[str, t.Any]:
        result = run_module("fleet_unit", endpoint=endpoint, name="web", **more)
        assert "msg" not in result, result["msg"]
        return {"changed": result["changed"], **result["units"][0]}

    made = unit(content=TEXT)
    assert (made["changed"], made["action"], made["current_state"]) == (True, "created", "launched")
    assert list(running("web.service")) == [machine_of(made["machine_id"])]
    assert unit(content=TEXT)["changed"] is False
    assert unit(content=TEXT + "# a comment\n")["changed"] is False
    replaced = unit(content=TEXT + "Restart=always\n")
    assert (replaced["action"], len(running("web.service"))) == ("replaced", 1)
    assert replaced["states"][0]["hash"] == replaced["hash"] != made["hash"]
    loaded = unit(state="loaded")
    assert (loaded["action"], loaded["current_state"], list(running("web.service"))) == ("state", "loaded", [])
    stored = unit(state="inactive")
    assert (stored["current_state"], stored["machine_id"], stored["states"]) == ("inactive", "", [])
    assert unit(state="inactive")["changed"] is False
    assert unit(state="absent", _ansible_check_mode=True)["changed"] is True
    assert unit(state="absent")["action"] == "deleted"
    assert unit(state="absent")["changed"] is False
    assert run_module("fleet_unit_info", endpoint=endpoint, names=["web"])["units"] == []


def template_and_global(run_module: Run, endpoint: str, running: Running, machines: Sequence[str]) -> None:
    """A template, an instance of it for each machine, and a global unit, in one call."""
    numbers = range(1, len(machines) + 1)
    units = [
        {"name": "job@.service", "content": TEXT + "[X-Fleet]\nConflicts=job@*.service\n", "state": "inactive"},
        *({"name": f"job@{number}"} for number in numbers),
        {"name": "everywhere", "content": TEXT + "[X-Fleet]\nGlobal=true\n"},
    ]
    result = run_module("fleet_unit", endpoint=endpoint, units=units)
    assert "msg" not in result, result["msg"]
    assert sorted(running(f"job@{number}.service")[0] for number in numbers) == sorted(machines)
    assert sorted(running("everywhere.service")) == sorted(machines)
    assert run_module("fleet_unit", endpoint=endpoint, units=units)["changed"] is False
    info = run_module("fleet_unit_info", endpoint=endpoint)["units"]
    assert [unit["name"] for unit in info] == [
        *("everywhere.service", "job@.service", *(f"job@{number}.service" for number in numbers)),
    ]
    gone = [{"name": unit["name"], "state": "absent"} for unit in info]
    # upstream takes away one unit of a machine in five seconds
    removed = run_module("fleet_unit", endpoint=endpoint, units=gone, timeout=120)
    assert "msg" not in removed, removed["msg"]
    assert len(removed["units"]) == len(info)
    assert list(running("everywhere.service")) == []
