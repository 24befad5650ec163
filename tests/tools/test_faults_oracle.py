# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The oracle of the fault tests on records made by hand: what holds passes, and each violation is told."""

from __future__ import annotations

import json

import pytest
from faults import oracle
from faults.oracle import Call, Change, Wanted

P = "/f/"
A, B = "a" * 32, "b" * 32


def life(unit: str, host: str, begin: float, end: float, stop: bool = False, invocation: str = "") -> str:
    """The lines of one life."""
    tail = f"{unit} {host} boot-{host} {invocation or f'{host}{begin}'}"
    number = round((end - begin) / oracle.BEAT)
    lines = [f"start {tail} {begin:.2f}"]
    lines += [f"beat {tail} {begin + (end - begin) * step / number:.2f}" for step in range(1, number + 1)]
    return "\n".join([*lines, *([f"stop {tail} {end:.2f}"] if stop else [])]) + "\n"


def runs(*logs: str) -> list[oracle.Run]:
    return oracle.runs_of(oracle.parse("".join(logs)))


def texts(found: object) -> list[str]:
    return [str(violation) for violation in found]  # type: ignore[attr-defined]


def test_lives_are_told_apart_by_host_boot_and_invocation() -> None:
    found = runs(life("u", "h1", 1, 3, stop=True), life("u", "h2", 4, 5), life("u", "h1", 6, 7))
    assert [(run.host, run.start, run.last, run.stopped) for run in found] == [
        ("h1", 1, 3, True),
        ("h2", 4, 5, False),
        ("h1", 6, 7, False),
    ]
    assert oracle.starts(found, "u") == 3
    assert oracle.starts(found, "u", since=4) == 2
    assert oracle.units_in(found) == ["u"]


@pytest.mark.parametrize("line", ["", "start u h b", "sing u h b i 1", "start u h b i soon"])
def test_a_torn_line_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"witness|float"):
        oracle.parse(f"start u h b i 1\n{line or ' '}\n")


def test_overlap_is_measured_and_refused_outside_of_its_window() -> None:
    found = runs(life("u", "h1", 0, 10), life("u", "h2", 8, 20), life("v", "h1", 0, 9), life("v", "h2", 9, 20))
    assert oracle.overlap_seconds(found, "u") == pytest.approx(2)
    assert oracle.overlap_seconds(found, "v") == 0
    assert not list(oracle.check_overlap(found, ["u", "v"], [(7, 11)]))
    (told,) = texts(oracle.check_overlap(found, ["u", "v"], [(8.5, 11)]))
    assert told.startswith("S2: u ran for 2.00 s on h1 and h2")
    assert "8.50 to 11.00" in told
    assert len(list(oracle.check_overlap(found, ["u"]))) == 1


def test_three_copies_count_once_and_a_killed_life_ends_with_its_last_beat() -> None:
    found = runs(life("u", "h1", 0, 10), life("u", "h2", 2, 6), life("u", "h3", 4, 8))
    assert len(oracle.overlaps(found, "u")) == 3
    assert oracle.overlap_seconds(found, "u") == pytest.approx(6)


def test_two_invocations_on_one_host_overlap_too() -> None:
    found = runs(life("u", "h1", 0, 10, invocation="one"), life("u", "h1", 5, 7, invocation="two"))
    assert oracle.overlap_seconds(found, "u") == pytest.approx(2)


def test_gaps_and_their_bound() -> None:
    found = runs(life("u", "h1", 0, 10), life("u", "h2", 17, 30))
    assert oracle.gaps(found, "u", 0, 30) == [(10, 17)]
    assert oracle.gaps(found, "u", 0, 33) == [(10, 17), (30, 33)]
    assert oracle.gaps(found, "u", 12, 15) == [(12, 15)]
    assert oracle.gaps(found, "nobody", 1, 5) == [(1, 5)]
    assert not list(oracle.check_gap(found, ["u"], 0, 30, 7.5))
    (told,) = texts(oracle.check_gap(found, ["u"], 0, 30, 6.5))
    assert told == "L2: u was away for 7.00 s, allowed are 6.50 s"


def test_a_life_inside_of_another_does_not_shorten_what_is_covered() -> None:
    assert oracle.gaps(runs(life("u", "h1", 0, 10), life("u", "h2", 2, 4)), "u", 0, 10) == []


def test_needless_starts_are_told() -> None:
    found = runs(life("u", "h1", 0, 5), life("u", "h1", 6, 9), life("v", "h2", 0, 9))
    assert not list(oracle.check_lives(found, {"u": 2, "v": 1, "w": 0}))
    (told,) = texts(oracle.check_lives(found, {"u": 1, "v": 1}))
    assert told.startswith("S3: u was started 2 times, not 1")
    assert not list(oracle.check_lives(found, {"u": 1}, since=5.5))


def test_another_invocation_is_told() -> None:
    assert not list(oracle.check_same({"h1/u": "x"}, {"h1/u": "x", "h1/v": "y"}))
    assert texts(oracle.check_same({"h1/u": "x", "h1/v": "y"}, {"h1/u": "z"})) == [
        "S3: h1/u was invocation x and is z",
        "S3: h1/v was invocation y and is gone",
    ]


def unit_value(tag: str = "", is_global: bool = False) -> bytes:
    options = [["Service", "ExecStart", "/bin/true"], ["Service", "Environment", f"TAG={tag}"]]
    if is_global:
        options.append(["X-Fleet", "Global", "true"])
    return json.dumps({"desired": "launched", "options": options}).encode()


def target(machine: str, epoch: int) -> bytes:
    return json.dumps({"machine": machine, "reason": "", "done": "", "epoch": epoch}).encode()


def assign(epoch: int) -> bytes:
    return json.dumps({"desired": "launched", "options": [], "epoch": epoch}).encode()


def beginning() -> list[Change]:
    """A leader of epoch 3, machines A and B, unit u on A."""
    return [
        Change(1, f"{P}presence/{A}", b"{}"),
        Change(2, f"{P}presence/{B}", b"{}"),
        Change(3, f"{P}leader", b"{}"),
        Change(4, f"{P}unit/u", unit_value("t1")),
        Change(5, f"{P}target/u", target(A, 3)),
        Change(5, f"{P}assign/{A}/u", assign(3)),
    ]


def move(revision: int, epoch: int) -> list[Change]:
    return [
        Change(revision, f"{P}target/u", target(B, epoch)),
        Change(revision, f"{P}assign/{A}/u", None),
        Change(revision, f"{P}assign/{B}/u", assign(epoch)),
    ]


def test_a_good_history_passes() -> None:
    history = [*beginning(), *move(6, 3), Change(7, f"{P}leader", None), Change(8, f"{P}leader", b"{}")]
    history += [Change(9, f"{P}target/u", None), Change(9, f"{P}assign/{B}/u", None), Change(9, f"{P}unit/u", None)]
    assert oracle.check_history(history, P) == []
    assert oracle.engine_writes(history, P) == 7
    assert oracle.moves(history, P) == {"u": 1}


def test_two_assignments_at_one_revision_are_told_and_global_ones_are_not() -> None:
    second = Change(6, f"{P}assign/{B}/u", assign(3))
    told = texts(oracle.check_history([*beginning(), second], P))
    assert any("S1: revision 6: u is assigned to" in text for text in told)
    spread = [Change(6, f"{P}unit/g", unit_value(is_global=True))]
    spread += [Change(7, f"{P}assign/{machine}/g", assign(3)) for machine in (A, B)]
    assert oracle.check_history([*beginning(), *spread], P) == []


def test_a_target_that_is_not_the_assigned_machine_is_told() -> None:
    told = texts(oracle.check_history([*beginning(), Change(6, f"{P}target/u", target(B, 3))], P))
    assert told == [f"S1: revision 6: u has target {B} and is assigned to {A}"]


def test_an_assignment_to_a_machine_that_is_gone_is_told() -> None:
    history = [*beginning(), Change(6, f"{P}presence/{B}", None), *move(7, 3)]
    (told,) = texts(oracle.check_history(history, P))
    assert told == f"S1: revision 7 assigns {B}/u, and that machine is not present"


def test_what_is_assigned_to_a_lost_machine_already_may_be_written_again() -> None:
    history = [*beginning(), Change(6, f"{P}presence/{A}", None), Change(7, f"{P}assign/{A}/u", assign(3))]
    assert oracle.check_history(history, P) == []


def test_a_write_of_an_old_leader_or_of_none_is_told() -> None:
    late = [*beginning(), Change(6, f"{P}leader", None), Change(7, f"{P}leader", b"{}"), *move(8, 3)]
    told = texts(oracle.check_history(late, P))
    assert [text[:3] for text in told] == ["S6:", "S6:"]
    assert "epoch 3 when the leader of epoch 7 was leading" in told[0]
    nobody = [*beginning(), Change(6, f"{P}leader", None), *move(7, 3)]
    assert "when nobody was leading" in texts(oracle.check_history(nobody, P))[0]


def test_garbage_in_the_history_is_no_error_of_the_oracle() -> None:
    garbage = [Change(6 + n, f"{P}{key}", b"\xff{") for n, key in enumerate(["unit/u", "state/x/u", f"presence/{A}"])]
    assert oracle.check_history([*beginning(), *garbage], P) == []


def call(tag: str, called: float, status: int = 201, unit: str = "u") -> Call:
    return Call(unit, tag, called, called + 0.5, status)


def written(revision: int, tag: str) -> Change:
    return Change(revision, f"{P}unit/u", unit_value(tag))


def test_acknowledged_writes_are_there_once_and_in_order() -> None:
    calls = [call("t1", 1), call("t2", 2), call("t3", 3, status=0), call("t4", 4, status=503)]
    history = [written(5, "t1"), written(6, "t2"), written(7, "t4")]
    assert not list(oracle.check_acknowledged(calls, history, P))
    assert texts(oracle.check_acknowledged(calls, history[1:], P)) == [
        "S5: write t1 of u was answered 201 and is 0 times in etcd"
    ]
    assert texts(oracle.check_acknowledged(calls, [*history, written(9, "t2")], P)) == [
        "S5: write t2 of u was answered 201 and is 2 times in etcd"
    ]
    swapped = [written(6, "t1"), written(5, "t2")]
    assert texts(oracle.check_acknowledged(calls, swapped, P)) == [
        "S5: write t1 of u came after t2, which began when it was answered"
    ]


def test_convergence() -> None:
    wanted = {"u": Wanted("launched"), "g": Wanted("launched", 2), "l": Wanted("loaded"), "i": Wanted("inactive")}
    systemd = {"h1": {"u": "active", "g": "active", "l": "inactive"}, "h2": {"g": "active"}}
    files = {"h1": ["u", "g", "l"], "h2": ["g"]}
    assert not list(oracle.check_converged(wanted, systemd, systemd, files))
    twice = {"h1": systemd["h1"], "h2": {"g": "active", "u": "active"}}
    assert texts(oracle.check_converged(wanted, twice, twice, files)) == [
        "L1: u is active on h1, h2, wanted are 1 copies"
    ]
    stale = {"h1": systemd["h1"], "h2": {}}
    assert texts(oracle.check_converged(wanted, systemd, stale, files)) == [
        "L1: the API shows g as active on ['h1'], systemd on ['h1', 'h2']"
    ]
    left = {"h1": systemd["h1"], "h2": {"g": "active", "old": "active"}}
    assert texts(oracle.check_converged(wanted, left, systemd, {"h2": ["g", "i", "old"]})) == [
        "L1: old is active on h2, and nobody wants it",
        "L1: the file of i is left on h2, and nobody wants it",
        "L1: the file of old is left on h2, and nobody wants it",
    ]


def test_require_raises_with_the_names_of_the_invariants() -> None:
    oracle.require([], iter(()))
    with pytest.raises(oracle.Violated, match="S2: twice") as caught:
        oracle.require([oracle.Violation("S2", "twice")], [oracle.Violation("L1", "never")])
    assert caught.value.invariants == {"S2", "L1"}
