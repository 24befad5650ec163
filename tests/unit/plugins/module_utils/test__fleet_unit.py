# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What fleet_unit decides, as tables: no request is made here."""

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import Machine, Unit, UnitState
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_unit import (
    Action,
    Observation,
    WantedUnit,
    judge,
    names_to_fetch,
    plan,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._unit_file import UnitOption, parse_unit, unit_hash

ONE = tuple(parse_unit("[Service]\nExecStart=/bin/one\n"))
TWO = tuple(parse_unit("[Service]\nExecStart=/bin/two\n"))
ONCE = tuple(parse_unit("[Service]\nType=oneshot\nExecStart=/bin/one\n"))


def stored(desired: str = "launched", options: tuple[UnitOption, ...] = ONE, name: str = "a.service") -> Unit:
    return Unit(name, options, desired)


@pytest.mark.parametrize(
    ("there", "state", "options", "kind"),
    [
        (None, "launched", ONE, "created"),
        (None, "inactive", ONE, "created"),
        (None, "absent", None, "none"),
        (stored("launched"), "launched", ONE, "none"),
        (stored("launched"), "launched", None, "none"),
        (stored("launched"), "loaded", None, "state"),
        (stored("inactive"), "launched", ONE, "state"),
        (stored("launched"), "launched", TWO, "replaced"),
        (stored("inactive"), "inactive", TWO, "replaced"),
        (stored("launched"), "inactive", TWO, "replaced"),
        (stored("launched"), "absent", None, "deleted"),
    ],
)
def test_what_is_to_be_done(there, state, options, kind):
    (action,) = plan([WantedUnit("a.service", state, options)], {} if there is None else {there.name: there})
    assert (action.kind, action.state) == (kind, state)
    if state != "absent":
        assert action.options == (options or ONE)


def test_templates_are_fetched_only_where_they_may_be_needed():
    wanted = [
        WantedUnit("t@1.service", "launched", None),
        WantedUnit("t@2.service", "launched", None),
        WantedUnit("own@1.service", "launched", ONE),
        WantedUnit("gone@1.service", "absent", None),
        WantedUnit("u@.service", "inactive", ONE),
        WantedUnit("u@1.service", "launched", None),
        WantedUnit("plain.service", "launched", None),
    ]
    assert names_to_fetch(wanted) == [*(unit.name for unit in wanted), "t@.service"]


def test_a_template_of_the_same_call_wins_over_the_stored_one():
    wanted = [WantedUnit("t@1.service", "launched", None), WantedUnit("t@.service", "inactive", TWO)]
    actions = plan(wanted, {"t@.service": stored("inactive", ONE, "t@.service")})
    assert [(action.kind, action.options) for action in actions] == [("created", TWO), ("replaced", TWO)]


def says(active: str, sub: str = "x", machine: str = "m1", options: tuple[UnitOption, ...] = ONE) -> UnitState:
    return UnitState("a.service", machine, unit_hash(options), "loaded", active, sub)


def seen(current: str, *states: UnitState, machine: str = "m1", options: tuple[UnitOption, ...] = ONE) -> Observation:
    unit = Unit("a.service", options, "launched", current, machine if current != "inactive" else "")
    return Observation({unit.name: unit}, states, ())


def reached(state: str, observation: Observation) -> bool:
    return judge(Action("a.service", "none", state, ONE, None), observation).reached


NOTHING = Observation({}, (), ())


@pytest.mark.parametrize(
    ("state", "observation", "result"),
    [
        ("launched", seen("launched", says("active")), True),
        ("launched", seen("launched", says("reloading")), True),
        ("launched", seen("launched"), False),
        ("launched", seen("launched", says("activating")), False),
        ("launched", seen("launched", says("failed")), False),
        # of another machine, of the content before, of before the start
        ("launched", seen("launched", says("active", machine="m2")), False),
        ("launched", seen("launched", says("active", options=TWO)), False),
        ("launched", seen("loaded", says("active")), False),
        # done with its work, and only then
        ("launched", seen("launched", says("inactive", "dead", options=ONCE), options=ONCE), True),
        ("launched", seen("loaded", says("inactive", "dead", options=ONCE), options=ONCE), False),
        ("launched", seen("launched", says("inactive", "dead")), False),
        ("launched", seen("launched", says("failed", "failed", options=ONCE), options=ONCE), False),
        ("launched", NOTHING, False),
        ("loaded", seen("loaded", says("inactive")), True),
        ("loaded", seen("loaded", says("failed")), True),
        ("loaded", seen("loaded", says("deactivating")), False),
        ("loaded", seen("loaded", says("inactive", options=TWO)), False),
        ("loaded", seen("loaded", says("inactive"), says("active", machine="m2")), False),
        ("loaded", seen("loaded"), False),
        ("loaded", seen("launched", says("inactive")), False),
        ("inactive", seen("inactive"), True),
        ("inactive", seen("inactive", says("deactivating")), False),
        ("inactive", seen("loaded"), False),
        ("inactive", NOTHING, False),
        ("absent", NOTHING, True),
        ("absent", Observation({}, (says("deactivating"),), ()), False),
        ("absent", seen("inactive"), False),
    ],
)
def test_when_a_state_is_reached(state, observation, result):
    assert reached(state, observation) is result


def everywhere(extra: str, *states: UnitState, ids: str = "12") -> Observation:
    options = tuple(parse_unit("[Service]\nExecStart=/bin/one\n[X-Fleet]\nGlobal=true\n" + extra))
    found = [UnitState(s.name, s.machine_id, unit_hash(options), s.load, s.active, s.sub) for s in states]
    machines = [Machine(f"m{number}", "", {"zone": number}) for number in ids]
    return Observation({"a.service": Unit("a.service", options, "launched")}, found, machines)


@pytest.mark.parametrize(
    ("state", "observation", "result"),
    [
        ("launched", everywhere("", says("active"), says("active", machine="m2")), True),
        ("launched", everywhere("", says("active")), False),
        ("launched", everywhere("", says("active"), says("activating", machine="m2")), False),
        ("launched", everywhere("MachineMetadata=zone=1\n", says("active")), True),
        # no machine fits, so there is nothing to wait for
        ("launched", everywhere("MachineMetadata=zone=9\n"), True),
        # a machine that has gone still says what it said last
        ("launched", everywhere("", says("active"), says("failed", machine="m2"), ids="1"), True),
        # with conflicts only the machines know which of them run it
        ("launched", everywhere("Conflicts=b.service\n", says("active")), True),
        ("launched", everywhere("Conflicts=b.service\n"), False),
        ("loaded", everywhere("", says("inactive"), says("inactive", machine="m2")), True),
        ("loaded", everywhere("", says("inactive"), says("active", machine="m2")), False),
        ("inactive", everywhere("", says("inactive")), False),
        ("inactive", everywhere(""), True),
    ],
)
def test_when_a_global_unit_has_reached_its_state(state, observation, result):
    assert reached(state, observation) is result


def test_what_is_seen_names_state_machine_systemd_and_reason():
    unit = Unit("a.service", ONE, "launched", "loaded", "m1234567890", "no free machine")
    state = UnitState("a.service", "m1234567890", "", "loaded", "activating", "start-pre")
    verdict = judge(Action("a.service", "none", "launched", ONE, None), Observation({unit.name: unit}, (state,), ()))
    assert verdict.seen == (
        "current state loaded on machine m1234567, systemd on m1234567 says activating/start-pre,"
        " because no free machine"
    )
