# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oracle sees what is broken: five wrong fleetds, each of which must fail a named test by a named invariant.

The variants replace parts of the deployed package on the hosts, see variants/load.py.
"""

from __future__ import annotations

import pytest
from faults.lab import Lab
from faults.oracle import Violated
from faults.test_agent import bad_among_good
from faults.test_engine import paused_leader
from faults.test_etcd import no_space
from faults.test_partition import cut_off_stop_units, no_majority


def test_without_fencing_f5_fails(lab: Lab) -> None:
    """test_f5_a_minority_stops_its_stop_units_before_they_start_elsewhere"""
    with lab.fleetd_with("fencing_off", keep_fence=False), pytest.raises(Violated) as caught:
        cut_off_stop_units(lab, lab.others(lab.engine_leader())[-1])
    lab.note(str(caught.value))
    assert "S2" in caught.value.invariants


def test_without_compares_f8_fails(lab: Lab) -> None:
    """test_f8_a_paused_leader_wakes_up_as_nobody"""
    with lab.fleetd_with("no_watchdog", "compares_off", "slow_engine"), pytest.raises(Violated) as caught:
        paused_leader(lab)
    lab.note(str(caught.value))
    assert "S6" in caught.value.invariants


def test_taking_an_error_for_an_empty_registry_f7_fails(lab: Lab) -> None:
    """test_f7_without_a_majority_nothing_changes"""
    with lab.fleetd_with("empty_on_error"), pytest.raises(Violated) as caught:
        no_majority(lab)
    lab.note(str(caught.value))
    assert "S3" in caught.value.invariants


def test_stopping_at_the_first_error_f10_fails(lab: Lab) -> None:
    """test_f10_bad_units_hold_up_no_good_ones"""
    with lab.fleetd_with("first_error_stops"), pytest.raises(Violated) as caught:
        bad_among_good(lab)
    lab.note(str(caught.value))
    assert "S7" in caught.value.invariants


def test_showing_life_by_writes_f12_fails(lab: Lab) -> None:
    """test_f12_without_space_nothing_stops_and_after_the_cure_all_is_well"""
    with lab.fleetd_with("presence_by_put"), pytest.raises(Violated) as caught:
        no_space(lab)
    lab.note(str(caught.value))
    assert "S3" in caught.value.invariants
