# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The scheduler: named cases of upstream's rules, and properties over arbitrary clusters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flotilla_fleet.model import Assignment, JobState, Machine, Target, Unit, UnitState
from flotilla_fleet.scheduler import Plan, Snapshot, plan, rebalance
from flotilla_fleet.unitfile import UnitOption, glob_match

A, B, C = "a" * 32, "b" * 32, "c" * 32


def unit(name: str, desired: JobState = "launched", **fleet: str | list[str]) -> Unit:
    options = [UnitOption("Service", "ExecStart", "/bin/true")]
    for key, values in fleet.items():
        for value in [values] if isinstance(values, str) else values:
            options.append(UnitOption("X-Fleet", key, value))
    return Unit(name, tuple(options), desired)


@dataclass
class World:
    """A cluster that obeys: assignments become running units, removed ones stop when ``settle`` says so."""

    units: dict[str, Unit] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    targets: dict[str, Target] = field(default_factory=dict)
    assigns: dict[tuple[str, str], Assignment] = field(default_factory=dict)
    states: dict[tuple[str, str], UnitState] = field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    waiting: dict[str, str] = field(default_factory=dict)
    moves: dict[str, str] = field(default_factory=dict)
    brake: int = 0
    fails: set[str] = field(default_factory=set)
    """Units that do not come up with what they are assigned now."""

    def snapshot(self) -> Snapshot:
        return Snapshot(
            dict(self.units),
            dict(self.machines),
            dict(self.targets),
            dict(self.assigns),
            dict(self.states),
            self.frozen,
            dict(self.waiting),
            dict(self.moves),
            self.brake,
        )

    def step(self) -> Plan:
        made = plan(self.snapshot())
        for change in made.changes:
            if change.drop_target:
                self.targets.pop(change.name, None)
            if change.target is not None:
                self.targets[change.name] = change.target
            for machine, copy in change.assign:
                self.assigns[machine, change.name] = copy
            for machine in change.unassign:
                del self.assigns[machine, change.name]
            if change.drop_move:
                del self.moves[change.name]
        return made

    def obey(self) -> None:
        """Every present machine runs exactly what it is assigned."""
        self.states = {}
        self.report()

    def report(self) -> None:
        """Machines tell of what they were assigned, but have not stopped anything yet."""
        for (machine, name), copy in self.assigns.items():
            if machine in self.machines:
                active = "failed" if name in self.fails else "active" if copy.desired == "launched" else "inactive"
                self.states[machine, name] = UnitState(name, machine, copy.hash, "loaded", active, "x", copy.desired)

    def settle(self, rounds: int = 12) -> None:
        for _ in range(rounds):
            if not self.step():
                self.obey()
                if not self.step():
                    return
            self.obey()
        raise AssertionError("the plan does not come to rest")

    def lose(self, machine: str) -> None:
        del self.machines[machine]
        self.states = {key: state for key, state in self.states.items() if key[0] != machine}

    def where(self, name: str) -> str:
        return self.targets.get(name, Target()).machine

    def why(self, name: str) -> str:
        return self.targets.get(name, Target()).reason

    def machines_with(self, name: str) -> list[str]:
        return sorted(machine for machine, held in self.assigns if held == name)


def world(*units_: Unit, machines: str = "abc", **metadata: str) -> World:
    made = World({u.name: u for u in units_})
    for letter in machines:
        made.machines[letter * 32] = Machine(letter * 32, metadata={"az": metadata.get(letter, letter)})
    made.settle()
    return made


def test_spreads_to_the_least_loaded_then_the_lowest_id() -> None:
    w = world(unit("one.service"), unit("three.service"), unit("two.service"), unit("zz.service"))
    assert [w.where(n) for n in ("one.service", "three.service", "two.service", "zz.service")] == [A, B, C, A]


def test_loaded_units_are_placed_and_inactive_ones_are_not() -> None:
    w = world(unit("l.service", "loaded"), unit("i.service", "inactive"))
    assert w.assigns[A, "l.service"].desired == "loaded"
    assert "i.service" not in w.targets
    assert not w.machines_with("i.service")


def test_units_of_a_lost_machine_move_in_the_same_pass_and_nothing_else_does() -> None:
    w = world(*(unit(f"u{n}.service") for n in range(9)))
    before = {name: w.where(name) for name in w.units}
    w.lose(B)
    w.step()
    for name, machine in before.items():
        assert w.where(name) in (A, C)
        if machine != B:
            assert w.where(name) == machine
    assert not [key for key in w.assigns if key[0] == B]


def test_a_returned_machine_gets_nothing_back() -> None:
    w = world(*(unit(f"u{n}.service") for n in range(4)))
    w.lose(A)
    w.settle()
    before = dict(w.targets)
    w.machines[A] = Machine(A, metadata={"az": "a"})
    w.settle()
    assert w.targets == before


def test_machine_id_matches_whole_and_by_its_first_eight() -> None:
    w = world(unit("full.service", MachineID=B), unit("short.service", MachineID="c" * 8))
    assert (w.where("full.service"), w.where("short.service")) == (B, C)


def test_machine_id_that_is_absent_has_a_reason() -> None:
    w = world(unit("gone.service", MachineID="d" * 32))
    assert w.where("gone.service") == ""
    assert w.why("gone.service") == f"none of 3 machines fits: 3 is not machine {'d' * 32}"


def test_metadata_or_within_a_key_and_and_between_keys() -> None:
    w = world(unit("m.service", MachineMetadata=["az=c", "az=b"]))
    assert w.where("m.service") == B
    w = world(unit("m.service", MachineMetadata=["az=c", "disk=ssd"]))
    assert w.where("m.service") == ""
    assert "lacks metadata disk=ssd" in w.why("m.service")


def test_metadata_that_goes_away_moves_the_unit_after_it_has_stopped() -> None:
    w = world(unit("m.service", MachineMetadata=["az=b", "az=c"]))
    assert w.where("m.service") == B
    w.machines[B] = Machine(B, metadata={"az": "x"})
    w.step()
    assert w.where("m.service") == ""
    assert "m.service" not in [name for _machine, name in w.assigns]
    w.step()
    assert w.where("m.service") == "", "placed while machine b still ran it"
    w.obey()
    w.step()
    assert w.where("m.service") == C


def test_conflicts_are_symmetric() -> None:
    w = world(unit("web@1.service", Conflicts="web@*.service"), unit("web@2.service"), machines="ab")
    assert {w.where("web@1.service"), w.where("web@2.service")} == {A, B}


def test_template_instances_take_one_machine_each_and_the_fourth_says_why() -> None:
    w = world(*(unit(f"web@{n}.service", Conflicts="web@*") for n in range(1, 5)))
    assert [w.where(f"web@{n}.service") for n in range(1, 4)] == [A, B, C]
    assert w.where("web@4.service") == ""
    assert "which conflicts" in w.why("web@4.service")


def test_machine_of_follows_its_peer() -> None:
    w = world(unit("a-follower.service", MachineOf="peer.service"), unit("peer.service", MachineMetadata="az=c"))
    assert w.where("a-follower.service") == w.where("peer.service") == C
    w.units["peer.service"] = unit("peer.service", MachineMetadata="az=b")
    w.settle()
    assert w.where("a-follower.service") == w.where("peer.service") == B


def test_machine_of_each_other_is_never_placed_and_says_so() -> None:
    w = world(unit("x.service", MachineOf="y.service"), unit("y.service", MachineOf="x.service"))
    assert w.where("x.service") == w.where("y.service") == ""
    assert "does not run y.service" in w.why("x.service")


def test_replaces_sends_the_other_away_and_it_stays_away() -> None:
    w = world(unit("old.service"), machines="ab")
    assert w.where("old.service") == A
    w.units["new.service"] = unit("new.service", Replaces="old.service", MachineMetadata="az=a")
    w.settle()
    assert w.where("new.service") == A
    assert w.where("old.service") == B


def test_replaces_does_not_ignore_what_the_other_asks_for() -> None:
    w = world(unit("old.service", MachineMetadata="az=a"), machines="ab")
    w.units["new.service"] = unit("new.service", Replaces="old.service", MachineMetadata="az=a")
    w.settle()
    assert w.where("old.service") == ""
    assert "which replaces it" in w.why("old.service")


def test_what_is_beside_a_replaced_unit_leaves_with_it() -> None:
    w = world(unit("web@1.service"), unit("db.service", MachineOf="web@1.service"), machines="a")
    assert w.where("db.service") == A
    w.units["a.service"] = unit("a.service", Replaces="web@1.service")
    w.step()
    check(w)
    assert w.where("db.service") == ""
    assert "does not run web@1.service" in w.why("db.service")


def test_two_that_replace_each_other_are_left_alone() -> None:
    w = world(unit("x.service", Replaces="y.service"), unit("y.service", Replaces="x.service"), machines="a")
    assert w.where("x.service") == w.where("y.service") == A


def test_a_global_unit_is_on_each_machine_that_fits() -> None:
    w = world(unit("g.service", Global="true"))
    assert w.machines_with("g.service") == [A, B, C]
    assert "g.service" not in w.targets
    w = world(unit("g.service", Global="true", MachineMetadata=["az=a", "az=c"]))
    assert w.machines_with("g.service") == [A, C]


def test_a_global_unit_reaches_a_new_machine_and_counts_as_load() -> None:
    w = world(unit("g.service", Global="true", MachineMetadata="az=a"), unit("u.service"))
    assert w.where("u.service") == B
    w.machines["d" * 32] = Machine("d" * 32, metadata={"az": "a"})
    w.settle()
    assert w.machines_with("g.service") == [A, "d" * 32]


def test_a_global_unit_that_fits_nowhere_says_why() -> None:
    w = world(unit("g.service", Global="true", MachineMetadata="az=moon"))
    assert "lacks metadata az=moon" in w.why("g.service")
    w.machines[A] = Machine(A, metadata={"az": "moon"})
    w.settle()
    assert w.machines_with("g.service") == [A]
    assert "g.service" not in w.targets


def test_a_global_unit_avoids_what_conflicts_with_it() -> None:
    w = world(unit("db.service", MachineMetadata="az=b"))
    w.units["g.service"] = unit("g.service", Global="true", Conflicts="db.service")
    w.settle()
    assert w.machines_with("g.service") == [A, C]
    assert w.where("db.service") == B


def test_a_unit_is_refused_where_a_global_unit_conflicts_and_says_so() -> None:
    w = world(unit("g.service", Global="true", Conflicts="db.service"))
    w.units["db.service"] = unit("db.service")
    w.settle()
    assert "runs g.service, which conflicts" in w.why("db.service")


def test_new_content_and_new_desired_state_reach_the_assignment() -> None:
    w = world(unit("u.service"))
    w.units["u.service"] = replace(w.units["u.service"], desired="loaded")
    w.settle()
    assert w.assigns[A, "u.service"].desired == "loaded"
    assert w.where("u.service") == A


def test_a_destroyed_unit_leaves_nothing() -> None:
    w = world(unit("u.service"), unit("g.service", Global="true"))
    w.units.clear()
    w.settle()
    assert not w.targets
    assert not w.assigns


def test_without_machines_each_unit_says_so() -> None:
    w = world(unit("u.service"), machines="")
    assert w.why("u.service") == "no machine is present"


def test_a_frozen_unit_keeps_what_it_has_even_when_its_record_is_gone() -> None:
    w = world(unit("u.service"), unit("v.service"))
    w.frozen = frozenset({"u.service"})
    del w.units["u.service"]
    w.settle()
    assert w.where("u.service") == A
    assert w.machines_with("u.service") == [A]


def test_stopped_and_started_again_waits_for_the_machine_that_still_stops_it() -> None:
    w = world(unit("u.service"))
    w.units["u.service"] = replace(w.units["u.service"], desired="inactive")
    w.step()
    w.units["u.service"] = replace(w.units["u.service"], desired="launched")
    w.step()
    assert w.where("u.service") == ""
    assert w.why("u.service") == f"waits until machine {A} has stopped it"
    w.obey()
    w.settle()
    assert w.where("u.service") == A


# -- beyond upstream ---------------------------------------------------------------


def sized(letter: str, memory: int = 0, cpus: float = 0.0, **metadata: str) -> Machine:
    return Machine(letter * 32, metadata=metadata, memory=memory, cpus=cpus)


def test_reserved_memory_is_not_given_twice() -> None:
    w = world(*(unit(f"u{n}.service", MemoryReservation="600M") for n in range(3)), machines="")
    w.machines = {A: sized("a", 2**30), B: sized("b", 2**30)}
    w.settle()
    assert sorted(w.where(f"u{n}.service") for n in range(3)) == ["", A, B]
    assert "2 has 424 MiB of memory unreserved, not 600 MiB" in w.why("u2.service")


def test_reserved_processors_are_not_given_twice() -> None:
    w = world(unit("x.service", CPUReservation="1.5"), unit("y.service", CPUReservation="50%"), machines="")
    w.machines = {A: sized("a", cpus=2)}
    w.settle()
    assert w.where("x.service") == w.where("y.service") == A
    w.units["z.service"] = unit("z.service", CPUReservation="0.1")
    w.settle()
    assert "has 0 processors unreserved, not 0.1" in w.why("z.service")


def test_a_reservation_that_grew_does_not_throw_a_unit_out() -> None:
    w = world(machines="")
    w.machines = {A: sized("a", 2**30)}
    w.units["u.service"] = unit("u.service", MemoryReservation="1G")
    w.settle()
    w.machines[A] = sized("a", 2**29)
    w.settle()
    assert w.where("u.service") == A


def test_max_per_machine_counts_the_instances_of_a_template() -> None:
    w = world(*(unit(f"web@{n}.service", MaxPerMachine="2") for n in range(1, 6)), machines="ab")
    assert sorted(w.where(f"web@{n}.service") for n in range(1, 6)) == ["", A, A, B, B]
    assert "runs 2 of web@.service already" in w.why("web@5.service")


def test_spread_by_prefers_the_value_with_fewest_of_the_group() -> None:
    w = world(machines="")
    w.machines = {A: sized("a", az="1"), B: sized("b", az="1"), C: sized("c", az="2")}
    for n in range(1, 5):
        w.units[f"web@{n}.service"] = unit(f"web@{n}.service", SpreadBy="az")
    w.settle()
    zones = [w.machines[w.where(f"web@{n}.service")].metadata["az"] for n in range(1, 5)]
    assert zones.count("2") == 2


def test_spread_by_is_soft() -> None:
    w = world(machines="")
    w.machines = {A: sized("a", az="1")}
    for n in range(1, 4):
        w.units[f"web@{n}.service"] = unit(f"web@{n}.service", SpreadBy="az")
    w.settle()
    assert all(w.where(name) == A for name in w.units)


def test_a_sticky_unit_waits_for_its_machine() -> None:
    w = world(unit("db.service", Sticky="true"), machines="ab")
    assert w.where("db.service") == A
    w.lose(A)
    w.settle()
    assert w.where("db.service") == A
    assert w.why("db.service") == f"sticks to machine {A}, which is not present"
    w.machines[A] = Machine(A)
    w.settle()
    assert (w.where("db.service"), w.why("db.service")) == (A, "")
    assert w.machines_with("db.service") == [A]


def test_a_sticky_unit_stays_when_metadata_changes() -> None:
    w = world(unit("db.service", Sticky="true", MachineMetadata="az=a"))
    w.machines[A] = Machine(A, metadata={"az": "z"})
    w.settle()
    assert w.where("db.service") == A


def test_a_drained_machine_is_emptied_and_gets_nothing() -> None:
    plain = [unit(f"u{n}.service") for n in range(6)]
    w = world(*plain, unit("g.service", Global="true"), unit("s.service", Sticky="1"))
    stuck = w.where("s.service")
    w.machines[stuck] = replace(w.machines[stuck], draining=True)
    w.settle()
    assert not [name for machine, name in w.assigns if machine == stuck]
    assert all(w.where(f"u{n}.service") not in ("", stuck) for n in range(6))
    assert "which is being drained" in w.why("s.service")
    w.machines[stuck] = replace(w.machines[stuck], draining=False)
    w.settle()
    assert sorted(name for machine, name in w.assigns if machine == stuck) == ["g.service", "s.service"]


def test_a_unit_that_must_not_run_twice_waits_for_the_lost_machine() -> None:
    w = world(unit("u.service", OnPartition="stop"))
    w.waiting = {"u.service": "waits"}
    w.lose(A)
    w.settle()
    assert (w.where("u.service"), w.why("u.service")) == (A, "waits")
    assert w.machines_with("u.service") == [A]
    w.waiting = {}
    w.settle()
    assert w.where("u.service") == B


def test_waiting_ends_when_the_machine_is_back() -> None:
    w = world(unit("u.service", OnPartition="stop"))
    w.waiting = {"u.service": "waits"}
    w.settle()
    assert (w.where("u.service"), w.why("u.service")) == (A, "")


def new_content(w: World, name: str, **fleet: str) -> None:
    old = w.units[name]
    w.units[name] = replace(old, options=(*old.options, UnitOption("Service", "Environment", "V=2")))


def updated(w: World, name: str) -> bool:
    return all(copy.options == w.units[name].options for (_m, n), copy in w.assigns.items() if n == name)


def test_instances_are_updated_one_at_a_time() -> None:
    names = [f"web@{n}.service" for n in (1, 2, 3)]
    w = world(*(unit(name, RollingUpdate="1") for name in names))
    for name in names:
        new_content(w, name)
    w.step()
    assert [updated(w, name) for name in names] == [True, False, False]
    assert not w.step() or [updated(w, name) for name in names] == [True, False, False], "the first is not up yet"
    w.report()
    w.step()
    assert [updated(w, name) for name in names] == [True, True, False]
    w.settle()
    assert [updated(w, name) for name in names] == [True, True, True]
    assert all(w.why(name) == "" for name in names)


def test_copies_of_a_global_unit_are_updated_two_at_a_time() -> None:
    w = world(unit("g.service", Global="true", RollingUpdate="2"))
    new_content(w, "g.service")
    w.step()
    assert sum(copy.options == w.units["g.service"].options for copy in w.assigns.values()) == 2
    w.settle()
    assert updated(w, "g.service")
    assert "g.service" not in w.targets


def test_an_update_that_does_not_come_up_stops_and_says_where() -> None:
    names = [f"web@{n}.service" for n in (1, 2, 3)]
    w = world(*(unit(name, RollingUpdate="2") for name in names))
    for name in names:
        new_content(w, name)
    w.fails = {"web@1.service"}
    w.settle()
    assert [updated(w, name) for name in names] == [True, True, False]
    place = w.where("web@1.service")
    assert w.why("web@3.service") == f"update waits for web@1.service on machine {place} to become active"
    w.fails = set()
    w.settle()
    assert updated(w, "web@3.service")


def test_without_the_key_all_are_updated_at_once() -> None:
    names = [f"web@{n}.service" for n in (1, 2, 3)]
    w = world(*(unit(name) for name in names))
    for name in names:
        new_content(w, name)
    w.step()
    assert all(updated(w, name) for name in names)


def finish(w: World, name: str) -> None:
    state = w.states[w.where(name), name]
    w.states[w.where(name), name] = replace(state, active="inactive", done=True)


def test_a_job_that_is_done_is_not_run_again_when_its_machine_goes() -> None:
    w = world(unit("job.service"))
    finish(w, "job.service")
    w.step()
    assert w.targets["job.service"].done == w.units["job.service"].hash
    assert w.assigns[A, "job.service"].done
    w.lose(A)
    w.settle()
    assert w.where("job.service") == ""
    assert w.why("job.service") == "has run to completion"
    assert not w.machines_with("job.service")


def test_a_job_that_is_not_done_is_run_elsewhere() -> None:
    w = world(unit("job.service"))
    w.lose(A)
    w.settle()
    assert w.where("job.service") == B


def test_a_done_job_runs_again_with_new_content_or_after_a_stop() -> None:
    w = world(unit("job.service"))
    finish(w, "job.service")
    w.step()
    new_content(w, "job.service")
    w.settle()
    assert not w.targets["job.service"].done
    assert not w.assigns[A, "job.service"].done
    finish(w, "job.service")
    w.step()
    w.units["job.service"] = replace(w.units["job.service"], desired="inactive")
    w.settle()
    assert "job.service" not in w.targets


def test_a_requested_move_is_made_and_forgotten() -> None:
    w = world(unit("u.service"))
    w.moves = {"u.service": C}
    w.settle()
    assert w.where("u.service") == C
    assert not w.moves


def test_a_move_that_cannot_be_is_forgotten() -> None:
    w = world(unit("u.service", MachineMetadata="az=a"), unit("g.service", Global="true"))
    w.moves = {"u.service": C, "g.service": C, "none.service": C}
    w.settle()
    assert w.where("u.service") == A
    assert not w.moves


def test_rebalance_evens_out_after_a_machine_came_back() -> None:
    w = world(*(unit(f"u{n}.service") for n in range(9)), machines="ab")
    w.machines[C] = Machine(C)
    w.settle()
    moves = rebalance(w.snapshot(), 99)
    assert len(moves) == 3
    assert {move.target for move in moves} == {C}
    w.moves = {move.name: move.target for move in moves}
    w.settle()
    assert sorted(len([1 for m, _n in w.assigns if m == machine]) for machine in (A, B, C)) == [3, 3, 3]
    assert rebalance(w.snapshot(), 99) == ()


def test_rebalance_respects_its_limit_and_what_units_ask_for() -> None:
    w = world(*(unit(f"u{n}.service", MachineMetadata="az=a") for n in range(4)), unit("v.service"), unit("w.service"))
    w.machines[C] = replace(w.machines[C], draining=True)
    w.settle()
    for move in rebalance(w.snapshot(), 1):
        assert move.name in ("v.service", "w.service")
    assert len(rebalance(w.snapshot(), 1)) <= 1


# -- properties -------------------------------------------------------------------

NAMES = [f"{stem}.service" for stem in ("a", "b", "web@1", "web@2", "web@3", "db")]
GLOBS = [*NAMES, "web@*", "*", "[ab].service"]
STATES: list[JobState] = ["inactive", "loaded", "launched"]


@st.composite
def units(draw: st.DrawFn, name: str) -> Unit:
    desired = draw(st.sampled_from(STATES))
    kind = draw(st.sampled_from(["plain", "id", "peer", "conflict", "replace", "global"]))
    fleet: dict[str, str | list[str]] = {}
    if kind == "id":
        fleet["MachineID"] = draw(st.sampled_from([A, B, C, "d" * 32]))
    elif kind == "peer":
        fleet["MachineOf"] = draw(st.sampled_from([n for n in NAMES if n != name]))
    elif kind == "replace":
        fleet["Replaces"] = draw(st.sampled_from(NAMES))
    elif kind == "global":
        fleet["Global"] = "true"
    if kind in ("conflict", "global") and draw(st.booleans()):
        fleet["Conflicts"] = draw(st.sampled_from(GLOBS))
    if draw(st.integers(0, 3)) == 0:
        fleet["RollingUpdate"] = draw(st.sampled_from(["1", "2"]))
    if draw(st.integers(0, 3)) == 0:
        fleet["MaxPerMachine"] = "1"
    if draw(st.integers(0, 3)) == 0:
        fleet["SpreadBy"] = "az"
    if kind != "id" and draw(st.booleans()):
        fleet["MachineMetadata"] = draw(st.sampled_from(["az=1", "az=2"]))
    return unit(name, desired, **fleet)


def check(w: World) -> None:
    """What must hold after every plan, whatever was there before."""
    singles = {name: u for name, u in w.units.items() if not u.is_global and u.desired != "inactive"}
    for name, u in singles.items():
        held = [m for m in w.machines_with(name) if m in w.machines]
        assert len(held) <= 1, f"{name} is assigned to {held}"
        assert ([w.where(name)] if w.where(name) else []) == held
        assert w.where(name) or w.why(name), f"{name} is not placed and says nothing"
        if u.needs.machine_id and held:
            assert u.needs.machine_id in (held[0], held[0][:8])
        for peer in u.needs.peers:
            assert not held or peer in [n for m, n in w.assigns if m == held[0]]
    for machine, name in w.assigns:
        assert machine in w.machines, f"{name} is assigned to {machine}, which is gone"
        mine = w.units[name].needs
        for key, values in mine.metadata:
            assert w.machines[machine].metadata.get(key) in values
        for other_machine, other in w.assigns:
            if other_machine == machine and other != name:
                assert not any(glob_match(pattern, other) for pattern in mine.conflicts), f"{name} beside {other}"


class Cluster(RuleBasedStateMachine):
    """Machines come and go, units are written, stopped and destroyed; agents obey late or at once."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(letter=st.sampled_from("abcd"), az=st.sampled_from("12"))
    def machine_appears_or_changes(self, letter: str, az: str) -> None:
        self.world.machines[letter * 32] = Machine(letter * 32, metadata={"az": az})

    @precondition(lambda self: self.world.machines)
    @rule(data=st.data())
    def machine_dies(self, data: st.DataObject) -> None:
        self.world.lose(data.draw(st.sampled_from(sorted(self.world.machines))))

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def unit_is_written(self, data: st.DataObject, name: str) -> None:
        self.world.units[name] = data.draw(units(name))

    @precondition(lambda self: self.world.units)
    @rule(data=st.data())
    def unit_is_destroyed(self, data: st.DataObject) -> None:
        del self.world.units[data.draw(st.sampled_from(sorted(self.world.units)))]

    @rule()
    def agents_obey(self) -> None:
        self.world.obey()

    @rule()
    def agents_start_but_have_not_stopped(self) -> None:
        self.world.report()

    @invariant()
    def planned(self) -> None:
        w = self.world
        before = {name: w.where(name) for name in w.units if w.where(name) in w.machines}
        running = set(w.states)
        w.step()
        check(w)
        for name in w.units:
            here = w.where(name)
            if here and before.get(name) != here:
                others = [machine for machine, n in running if n == name and machine != here]
                assert not others, f"{name} was placed on {here} while {others} ran it"
        for _ in range(8):
            if not w.step():
                return
        raise AssertionError("the plan does not come to rest")


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_may_stay_stays(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(NAMES), unique=True))
    w = World({name: unit(name) for name in names})
    for letter in "abc":
        w.machines[letter * 32] = Machine(letter * 32)
    w.settle()
    before = dict(w.targets)
    lost = data.draw(st.sampled_from([A, B, C]))
    w.lose(lost)
    w.settle()
    assert {n: t for n, t in before.items() if t.machine != lost}.items() <= w.targets.items()
