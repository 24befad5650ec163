# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's decisions, and the agent without etcd or systemd."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeSystemd

from flotilla_fleet import agent as agents
from flotilla_fleet.agent import GATHER_STATES, Agent, Local, Step, digest_of, next_step
from flotilla_fleet.etcd import KV, Etcd, Json, RangeResult, TxnResult
from flotilla_fleet.memory import Memory
from flotilla_fleet.model import Assignment, JobState, encode_assignment
from flotilla_fleet.presence import Lease, now
from flotilla_fleet.registry import Keys
from flotilla_fleet.systemd import ActiveState, unescape_path
from flotilla_fleet.unitfile import parse_unit, serialize

TEXT = "[Service]\nExecStart=/bin/true\n"
ME = "a" * 32


def want(text: str = TEXT, desired: JobState = "launched", name: str = "u.service") -> Assignment:
    return Assignment(name, tuple(parse_unit(text)), desired)


def have(text: str = TEXT, job: JobState = "loaded", stopped: bool = False) -> Local:
    copy = want(text)
    return Local(digest_of(serialize(copy.options)), copy.hash, job, stopped)


@pytest.mark.parametrize(
    ("wanted", "held", "step"),
    [
        (None, None, Step.NOTHING),
        (want(), None, Step.INSTALL),
        (want(), have(), Step.START),
        (want(), have(job="launched"), Step.NOTHING),
        (want(desired="loaded"), have(), Step.NOTHING),
        (want(desired="loaded"), have(job="launched"), Step.STOP),
        (None, have(job="launched"), Step.STOP),
        (None, have(), Step.STOP),
        (None, have(stopped=True), Step.REMOVE),
        (want("[Service]\nExecStart=/bin/false\n"), have(job="launched"), Step.STOP),
        (want("[Service]\nExecStart=/bin/false\n"), have(stopped=True), Step.INSTALL),
        (want(), have(stopped=True), Step.START),
    ],
)
def test_next_step(wanted: Assignment | None, held: Local | None, step: Step) -> None:
    assert next_step(wanted, held) is step


def test_every_pair_comes_to_rest() -> None:
    """Taking the steps as the agent does ends, for each pair, with the machine as wanted."""
    texts = [TEXT, "[Service]\nExecStart=/bin/other\n"]
    states: list[JobState] = ["loaded", "launched"]
    wanted = [None, *(want(text, state) for text in texts for state in states)]
    held = [None, *(have(text, state, stopped) for text in texts for state in states for stopped in (True, False))]
    for goal in wanted:
        for start in held:
            local: Local | None = start
            for _ in range(6):
                step = next_step(goal, local)
                if step is Step.NOTHING:
                    break
                if step is Step.INSTALL:
                    assert goal is not None
                    local = have(serialize(goal.options))
                elif step is Step.REMOVE:
                    local = None
                elif step is Step.START:
                    assert local is not None
                    local = replace(local, job="launched", stopped=False)
                else:
                    assert local is not None
                    same = goal is not None and digest_of(serialize(goal.options)) == local.digest
                    local = replace(local, job="loaded", stopped=not same)
            if goal is None:
                assert local is None
            else:
                assert local is not None
                assert local.job == goal.desired
                assert local.digest == digest_of(serialize(goal.options))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/org/freedesktop/systemd1/unit/hello_2eservice", "hello.service"),
        ("/org/freedesktop/systemd1/unit/web_401_2eservice", "web@1.service"),
        ("/org/freedesktop/systemd1/unit/a_2db_5fc_5cx2d_2etimer", "a-b_c\\x2d.timer"),
        ("/org/freedesktop/systemd1/unit/bad_zz", ""),
    ],
)
def test_unit_names_of_object_paths(path: str, name: str) -> None:
    assert unescape_path(path) == name


def everything(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*"))


class Consenting(Etcd):
    """An etcd that agrees to every transaction, or refuses them."""

    agrees = True
    listing = RangeResult(2, ())

    async def prefix(self, prefix: str) -> RangeResult:
        return self.listing

    async def txn(self, compares: Sequence[Json], success: Sequence[Json], failure: Sequence[Json] = ()) -> TxnResult:
        return TxnResult(self.agrees, 1, (), 0)


class Rig:
    """An agent whose etcd only gives permits: listings are handed to it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.systemd = FakeSystemd()
        self.build()

    def build(self) -> None:
        memory = Memory(self.directory / "memory")
        self.etcd = Consenting(["http://127.0.0.1:1"])
        self.agent = Agent(ME, self.etcd, Keys("/t/"), self.systemd, self.directory / "units", memory, 0.2)
        self.agent._lease = Lease(self.etcd, 1, 60, now())
        self.systemd.on_state = self.agent.on_state
        self.systemd.on_removed = self.agent.on_removed
        self.systemd.on_job = self.agent.on_job
        self.agent.systemd_is_up(True)

    async def list(self, *assignments: Assignment, **raw: bytes) -> None:
        kvs = [KV(f"/t/assign/{ME}/{a.name}", encode_assignment(a).encode(), 1, 1) for a in assignments]
        kvs += [KV(f"/t/assign/{ME}/{name}", value, 1, 1) for name, value in raw.items()]
        self.agent._take_listing(RangeResult(1, tuple(kvs)))
        await self.rest()

    async def rest(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0.005)
            if not self.agent._workers:
                return


async def test_only_what_etcd_was_read_without_is_removed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want())
    assert "u.service" in rig.systemd.active
    rig.build()
    await rig.rest()
    assert "u.service" in rig.systemd.active, "stopped before the assignments were read"
    await rig.list()
    assert "u.service" not in rig.systemd.active
    assert not (tmp_path / "units/u.service").exists()
    assert not rig.agent.memory.names("unit-")


async def test_a_reload_of_systemd_ends_nothing(tmp_path: Path) -> None:
    """systemd tells of each unit that it is gone, and has all of them again afterwards."""
    rig = Rig(tmp_path)
    await rig.list(want(), want(name="v.service"))
    told: list[str] = []
    rig.agent._touch = told.append  # type: ignore[method-assign]
    rig.systemd.calls.clear()
    await rig.systemd.reload()
    await asyncio.sleep(0.1)
    assert [rig.agent.states[name].active for name in ("u.service", "v.service")] == ["active", "active"]
    assert told == []
    assert rig.systemd.calls["states"] == 1


async def test_what_ended_during_a_reload_is_seen(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want())
    await rig.systemd.reload()
    del rig.systemd.active["u.service"]
    await asyncio.sleep(0.1)
    assert rig.agent.states["u.service"].active == "inactive"


async def test_a_one_shot_unit_that_runs_is_not_done_by_a_reload(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want(name="job.service", text="[Service]\nType=oneshot\nExecStart=/bin/true\n"))
    rig.systemd.active["job.service"] = "runs"
    rig.agent._set_local("job.service", replace(rig.agent.local["job.service"], done=False))
    await rig.systemd.reload()
    await asyncio.sleep(0.1)
    assert rig.agent.states["job.service"].active == "active"
    assert not rig.agent.local["job.service"].done


async def test_an_unreadable_assignment_leaves_the_unit_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want())
    await rig.list(**{"u.service": b"{"})
    assert "u.service" in rig.systemd.active
    assert "u.service" in rig.agent.errors
    await rig.list(want(desired="loaded"))
    assert "u.service" not in rig.systemd.active


@pytest.mark.parametrize("name", ["../../etc/cron.d/x.service", "a/b.service", "t@.service", "x", "nl\n.service"])
async def test_names_that_could_do_harm_are_refused(tmp_path: Path, name: str) -> None:
    rig = Rig(tmp_path)
    before = everything(tmp_path)
    await rig.list(want(name=name))
    assert everything(tmp_path) == before
    assert rig.systemd.calls["start"] == 0


async def test_a_unit_that_was_stopped_by_hand_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "HALT_FIRST", 0.1)
    rig = Rig(tmp_path)
    await rig.list(want())
    await rig.systemd.stop_by_hand("u.service")
    assert rig.agent.local["u.service"].job == "loaded", "told as launched although it was stopped"
    await asyncio.sleep(0.05)
    assert "u.service" not in rig.systemd.active, "started again at once"
    await asyncio.sleep(0.15)
    assert "u.service" in rig.systemd.active
    assert rig.agent.local["u.service"].job == "launched"
    await rig.systemd.stop_by_hand("u.service")
    await asyncio.sleep(0.15)
    assert "u.service" not in rig.systemd.active, "stopped again and again, it is started less and less often"
    await asyncio.sleep(0.15)
    assert "u.service" in rig.systemd.active


async def test_only_what_a_job_has_stopped_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "HALT_FIRST", 0.01)
    rig = Rig(tmp_path)
    once = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
    await rig.list(want(), want(name="restarted.service"), want(once, name="once.service"), want(name="loaded.service"))
    await rig.systemd.stop("u.service")  # ended by itself: no job
    rig.agent.on_job("restarted.service", "done")  # it runs: that was a restart
    await rig.systemd.stop_by_hand("once.service")
    await rig.list(
        want(),
        want(name="restarted.service"),
        want(once, name="once.service"),
        want(desired="loaded", name="loaded.service"),
    )
    rig.agent.on_job("loaded.service", "done")
    rig.agent.on_job("other.service", "done")
    await asyncio.sleep(0.1)
    assert {name: rig.systemd.starts[name] for name in rig.agent.local} == dict.fromkeys(rig.agent.local, 1)


async def test_a_restart_of_the_agent_starts_nothing_that_ended_meanwhile(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want())
    await rig.systemd.stop("u.service")
    rig.build()
    await rig.list(want())
    assert "u.service" not in rig.systemd.active
    assert rig.systemd.starts["u.service"] == 1


async def test_replacing_content_reloads_once_and_new_units_never(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(*(want(name=f"u{n}.service") for n in range(20)))
    assert rig.systemd.calls["reload"] == 0
    assert rig.systemd.calls["link"] < 5
    other = "[Service]\nExecStart=/bin/other\n"
    await rig.list(*(want(other, name=f"u{n}.service") for n in range(20)))
    assert rig.systemd.calls["reload"] <= 2
    assert all("other" in text for text in rig.systemd.active.values())
    assert len(rig.systemd.active) == 20


async def test_a_unit_with_an_install_section_is_enabled(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want(TEXT + "\n[Install]\nWantedBy=multi-user.target\n"))
    assert rig.systemd.enabled == {"u.service"}
    await rig.list()
    assert rig.systemd.enabled == set()


async def test_a_hanging_stop_holds_up_nobody_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want(), want(name="v.service"))
    rig.systemd.slow.add("u.service")
    rig.systemd.let_stop.clear()
    rig.agent._take_listing(RangeResult(2, ()))
    for _ in range(100):
        await asyncio.sleep(0.005)
    assert "v.service" not in rig.systemd.active
    assert rig.agent.states["u.service"].active == "deactivating"
    rig.systemd.let_stop.set()
    await rig.rest()
    assert not rig.systemd.active


async def test_a_forgotten_unit_is_told_as_loaded_and_dead(tmp_path: Path) -> None:
    """systemd drops stopped units from memory; for fleet the unit is still loaded on this machine."""
    rig = Rig(tmp_path)
    await rig.list(want(desired="loaded"))
    rig.agent.on_state("u.service", ActiveState("not-found", "inactive", "dead"))
    assert rig.agent.states["u.service"] == ActiveState("loaded", "inactive", "dead")


async def test_a_removed_unit_leaves_no_state_to_one_of_its_name(tmp_path: Path) -> None:
    """systemd is asked about it a moment later, when it is gone; of a crash loop afterwards there are signals only."""
    rig = Rig(tmp_path)
    await rig.list(want())
    rig.agent.on_removed("u.service")
    await rig.list()
    await asyncio.sleep(2 * GATHER_STATES)
    assert rig.agent.states == {}
    await rig.list(want(TEXT.replace("/bin/true", "/bin/false")))
    assert rig.agent.states["u.service"] == ActiveState("loaded", "failed", "failed")


async def test_draining_stops_and_removes_everything(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want(), want(name="v.service"))
    assert await rig.agent.drain(5)
    assert not rig.systemd.active
    assert not list((tmp_path / "units").iterdir())


async def test_a_crash_looping_unit_is_written_a_few_times_and_then_every_two_seconds(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want())
    written = 0
    for number in range(100):
        rig.agent.on_state("u.service", ActiveState("", "activating" if number % 2 else "failed", str(number)))
        due, wait = rig.agent._due()
        written += len(due)
        assert due or 0 < wait <= 2
    assert 1 <= written <= 6


async def test_a_signal_that_overtakes_an_answer_wins(tmp_path: Path) -> None:
    """systemd answers "inactive", then signals "active"; the answer's reader runs after the signal's handler."""
    rig = Rig(tmp_path)
    await rig.list(want(desired="loaded"))
    ask = rig.systemd.states

    async def slow_answer(names: list[str]) -> dict[str, ActiveState]:
        answer = await ask(names)
        rig.agent.on_state("u.service", ActiveState("", "active", "running"))
        await asyncio.sleep(0)
        return answer

    rig.systemd.states = slow_answer  # type: ignore[method-assign]
    await rig.agent.refresh()
    assert rig.agent.states["u.service"] == ActiveState("loaded", "active", "running")


async def test_nothing_is_started_without_etcds_consent(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.etcd.agrees = False
    await rig.list(want())
    assert rig.systemd.calls["start"] == 0, "started although the assignment had changed"
    rig.etcd.agrees = True
    rig.agent._lease = None
    await rig.list(want())
    assert rig.systemd.calls["start"] == 0, "started without a lease"
    assert "not registered" in rig.agent.errors["u.service"]
    await rig.agent.on_lease(Lease(rig.etcd, 2, 60, now()))
    await rig.rest()
    assert "u.service" in rig.systemd.active


FENCED = TEXT + "[X-Fleet]\nOnPartition=stop\n"


async def test_when_the_lease_may_have_ended_only_fenced_units_are_stopped(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want(FENCED), want(name="run.service"))
    assert rig.agent._lease is not None
    rig.agent._lease.deadline = now() + 0.1
    guard = asyncio.create_task(rig.agent.guard())
    await asyncio.sleep(0.05)
    assert "u.service" in rig.systemd.active
    await asyncio.sleep(0.3)
    assert set(rig.systemd.active) == {"run.service"}
    rig.agent._lease.deadline = now() + 60
    rig.etcd.listing = RangeResult(5, ())
    await asyncio.sleep(0.4)
    assert not rig.systemd.starts["u.service"] > 1, "started again although etcd no longer assigns it"
    guard.cancel()


async def test_a_fenced_unit_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want(FENCED))
    rig.systemd.slow.add("u.service")
    rig.systemd.let_stop.clear()
    assert rig.agent._lease is not None
    rig.agent._lease.deadline = now()
    guard = asyncio.create_task(rig.agent.guard())
    await asyncio.sleep(0.4)
    assert not rig.systemd.active
    assert rig.systemd.calls["kill"] == 1
    rig.systemd.let_stop.set()
    guard.cancel()


async def test_a_one_shot_unit_that_ended_is_told_as_done_and_not_run_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(want("[Service]\nType=oneshot\nExecStart=/bin/true\n"))
    await asyncio.sleep(0.05)
    assert rig.agent.local["u.service"].done
    rig.build()
    await rig.list(replace(want("[Service]\nType=oneshot\nExecStart=/bin/true\n"), done=True))
    assert rig.systemd.starts["u.service"] == 1


async def test_a_one_shot_unit_that_is_done_elsewhere_is_installed_but_not_started(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.list(replace(want("[Service]\nType=oneshot\nExecStart=/bin/true\n"), done=True))
    assert rig.systemd.starts["u.service"] == 0
    assert rig.agent.local["u.service"].done
