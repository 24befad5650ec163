# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which machine is meant, and what it lacks."""

from __future__ import annotations

import pytest

pytest.importorskip("requests")

from ansible_collections.flotilla.cluster.plugins.module_utils import _fleet_machine as fleet_machine
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import Machine
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError

ONE = Machine("f1" + "0" * 30, "192.0.2.1", {"disk": "ssd"})
TWO = Machine("f2" + "0" * 30, "192.0.2.2", {}, draining=True)


def test_the_beginning_of_an_id_is_enough():
    assert fleet_machine.choose([ONE, TWO], "f2") == TWO
    assert fleet_machine.choose([ONE, TWO], ONE.id) == ONE


@pytest.mark.parametrize(
    ("machines", "wanted", "words"),
    [
        ([ONE, TWO], "f", r"'f' is the beginning of several ids \(f1000000, f2000000\); give more of it"),
        ([ONE, TWO], "e", r"'e' is not one of the fleet's \(f1000000, f2000000\); check that it is up"),
        ([], "e", r"'e' is not one of the fleet's \(none\)"),
    ],
)
def test_a_machine_that_is_not_clear_is_refused(machines, wanted, words):
    with pytest.raises(OptionError, match=words):
        fleet_machine.choose(machines, wanted)


@pytest.mark.parametrize(
    ("machine", "drained", "metadata", "drain", "lacks"),
    [
        (ONE, None, {}, None, {}),
        (ONE, False, {}, None, {}),
        (ONE, True, {}, True, {}),
        (TWO, True, {}, None, {}),
        (TWO, False, {}, False, {}),
        (ONE, None, {"disk": "ssd", "rack": 12, "gone": None}, None, {"rack": "12"}),
        (ONE, None, {"disk": ""}, None, {"disk": ""}),
    ],
)
def test_only_what_is_lacking_is_done(machine, drained, metadata, drain, lacks):
    todo = fleet_machine.plan(machine, drained, metadata)
    assert (todo.drain, dict(todo.metadata)) == (drain, lacks)
    assert todo.changes is (drain is not None or bool(lacks))
    # nothing is lacking afterwards
    assert not fleet_machine.plan(fleet_machine.after(machine, todo), drained, metadata).changes


def test_a_key_that_goes_is_gone_afterwards():
    assert fleet_machine.after(ONE, fleet_machine.Plan(None, {"disk": "", "rack": "1"})).metadata == {"rack": "1"}


def test_a_host_without_an_id_is_told(tmp_path):
    with pytest.raises(OptionError, match=r"none cannot be read .*; give machine"):
        fleet_machine.own_id(str(tmp_path / "none"))
