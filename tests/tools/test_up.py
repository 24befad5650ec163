# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When ``make up`` runs the play and when it does not."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
import up
from localhosts import cluster as clusters
from localhosts import plan
from localhosts.plan import Cluster, HostsError
from localhosts.system import Progress

LISTED = "MACHINE  IP          METADATA\n1a2b...  10.79.7.11  -\n3c4d...  10.79.7.12  -\n"


def test_machines_are_counted_without_the_headings() -> None:
    assert [up.machine_count(text) for text in ("", "MACHINE\n", LISTED)] == [0, 0, 2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("roles/a/tasks/main.yml", "fleet/x.py", "ansible.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def fingerprint(tree: Path) -> str:
    return up.content_hash(tree, ("ansible.cfg", "fleet", "roles", "missing"))


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "fleet/x.py").write_text("other"),
        lambda tree: (tree / "ansible.cfg").write_text("other"),
        lambda tree: (tree / "roles/b").write_text(""),
        lambda tree: (tree / "fleet/x.py").rename(tree / "fleet/y.py"),
        lambda tree: (tree / "roles/a/tasks/main.yml").unlink(),
    ],
)
def test_any_change_of_a_source_counts(tree: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(tree)
    change(tree)
    assert fingerprint(tree) != before


def test_compiled_python_and_hidden_files_do_not_count(tree: Path) -> None:
    before = fingerprint(tree)
    for name in ("fleet/__pycache__/x.pyc", "roles/.cache/f", "fleet/.x.swp"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    assert fingerprint(tree) == before


class World:
    """Stands in for hosts, fleet and the play; ``plays`` counts the plays."""

    def __init__(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plays = 0
        self.started: tuple[str, ...] = ()
        self.machines = 0
        self.after_play = 2
        self.play_error: HostsError | None = None
        empty = Cluster("local", "core-", ipaddress.IPv4Network("10.79.7.0/24"))
        self.cluster = plan.grow(empty, 2, (), ["a", "b"])
        monkeypatch.setattr(up, "ROOT", tree)
        monkeypatch.setattr(clusters, "up", lambda order, progress: clusters.Result(self.cluster, self.started))
        monkeypatch.setattr(clusters, "directory", lambda name: tree / "state")
        monkeypatch.setattr(
            up, "look", lambda host: up.View("".join(LISTED.splitlines(True)[: self.machines + 1]), "", "")
        )
        monkeypatch.setattr(up, "_play", lambda progress: self.play())

    def play(self) -> None:
        self.plays += 1
        if self.play_error:
            raise self.play_error
        self.machines = self.after_play

    def bring_up(self) -> int:
        before = self.plays
        up.bring_up(2, "cached", Progress())
        return self.plays - before


@pytest.fixture
def world(tree: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tree, monkeypatch)


def test_a_second_run_plays_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert [world.bring_up(), world.bring_up()] == [1, 0]
    printed = capsys.readouterr()
    assert printed.out.count("core-01$ fleetctl list-machines\nMACHINE") == 2
    assert printed.out.count("What to try next:") == 2
    assert "the cluster is there: 2 machines" in printed.err


def test_changed_sources_play_again(world: World, tree: Path) -> None:
    world.bring_up()
    (tree / "roles/new").write_text("x")
    assert [world.bring_up(), world.bring_up()] == [1, 0]


def test_a_host_that_was_switched_on_plays_again(world: World) -> None:
    world.bring_up()
    world.started = ("core-02",)
    assert world.bring_up() == 1


def test_a_missing_machine_plays_again(world: World) -> None:
    world.bring_up()
    world.machines = 1
    assert world.bring_up() == 1


def test_a_play_that_fails_is_not_remembered_as_done(world: World) -> None:
    world.bring_up()
    world.machines = 1
    world.play_error = HostsError("no")
    with pytest.raises(HostsError, match="no"):
        world.bring_up()
    world.machines, world.play_error = 2, None
    assert world.bring_up() == 1


def test_a_play_after_which_a_machine_is_missing_is_an_error(world: World) -> None:
    world.after_play = 1
    with pytest.raises(HostsError, match="does not show 2 machines"):
        world.bring_up()
    assert world.plays == 1
