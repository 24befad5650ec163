# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""host_service as a whole, on a folder of its own and a systemd that is played."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import stat
import time
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_plan as plans
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system
from ansible_collections.flotilla.cluster.tests.unit.plugins.fake_systemd import FakeSystemd, Killed, Killer

UNIT = "web.service"
UNIT_TEXT = "[Service]\nExecStart=/usr/bin/web\n[Install]\nWantedBy=multi-user.target\n"
SECRET = "correct horse battery staple\nand another line of it\n"
RunModule = t.Callable[..., "dict[str, t.Any]"]


class World:
    """A host: its folders, its systemd, and the module that works on it."""

    def __init__(self, root: Path, run_module: RunModule) -> None:
        self.root = root
        self.stamps = root / "run"
        self.units = root / "units"
        self.units.mkdir()
        self.systemd = FakeSystemd(self.units)
        self.run_module = run_module
        self.owner = {"owner": str(os.getuid()), "group": str(os.getgid())}

    def describe(self, version: int = 1, **more: t.Any) -> dict[str, t.Any]:
        """Parameters for a service with a bit of everything. Versions differ in all of it."""
        conf, plain, tree = self.root / "etc/web.conf", self.root / "etc/plain", self.root / "lib"
        self.systemd.watched = [conf, self.root / "current/it", tree / "current/main.py"]
        for name in ("v1", "v2"):
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name / "it").write_text(name)
        files = [
            {"path": str(self.units / UNIT), "content": UNIT_TEXT + f"# {version}\n"},
            {"path": str(conf), "content": f"version = {version}\n", "mode": "0640"},
            {"path": str(plain), "content": f"plain {version}\n", "restart": False},
        ]
        return {
            "name": UNIT,
            "directories": [{"path": str(self.root / "srv"), "mode": "0750", **self.owner}],
            "files": [{**file, **self.owner} for file in files],
            "links": [{"path": str(self.root / "current"), "target": f"v{version}"}],
            "trees": [{"root": str(tree), "files": {"main.py": f"print({version})\n", "sub/x.txt": "x"}}],
            "absent": [str(self.root / "etc/old")] if version > 1 else [],
            **more,
        }

    def run(self, version: int = 1, **more: t.Any) -> dict[str, t.Any]:
        return self.run_module("host_service", **self.describe(version, **more))

    def file(self, path: str, content: str, **more: t.Any) -> dict[str, t.Any]:
        return {"path": str(self.root / path), "content": content, **self.owner, **more}

    @property
    def unit(self) -> t.Any:
        return self.systemd.unit(UNIT)

    def assert_runs_what_is_on_disk(self, version: int) -> None:
        """The running process was started with exactly this version."""
        assert self.unit.active == "active"
        assert self.unit.enabled
        assert self.unit.runs_with == {
            "definition": (UNIT_TEXT + f"# {version}\n").encode(),
            str(self.root / "etc/web.conf"): f"version = {version}\n".encode(),
            str(self.root / "current/it"): f"v{version}".encode(),
            str(self.root / "lib/current/main.py"): f"print({version})\n".encode(),
        }
        assert (self.root / "etc/plain").read_text() == f"plain {version}\n"
        assert not (self.root / "etc/old").exists() or version == 1

    def leftovers(self) -> list[str]:
        return [str(path) for path in self.root.rglob(".flotilla*")]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_module: RunModule) -> World:
    created = World(tmp_path, run_module)
    monkeypatch.setattr(system, "STAMP_DIRECTORY", str(created.stamps))
    monkeypatch.setattr(system, "run", created.systemd.run)
    monkeypatch.setattr(plans, "UNIT_DIRECTORIES", (f"{created.units}/",))
    monkeypatch.setattr(system, "UNIT_FOLDERS", (str(created.units),))
    return created


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- making it so -------------------------------------------------------------------------------------------------


def test_a_fresh_host_gets_everything_and_the_second_run_changes_nothing(world: World) -> None:
    result = world.run()
    assert result["changed"]
    assert result["started"]
    assert not result["restarted"]
    assert result["active_state"] == "active"
    assert result["invocation_id"] == world.unit.invocation
    world.assert_runs_what_is_on_disk(1)
    assert mode_of(world.root / "etc/web.conf") == 0o640
    assert mode_of(world.root / "srv") == 0o750
    assert world.systemd.calls == [f"enable {UNIT}", f"start {UNIT}"]
    tree = Path(result["trees"][str(world.root / "lib")])
    assert (tree / "sub/x.txt").read_text() == "x"
    assert list((tree / "__pycache__").glob("main.*.pyc"))

    world.systemd.calls.clear()
    again = world.run()
    assert not again["changed"]
    assert again["files_changed"] == []
    assert again["invocation_id"] == result["invocation_id"]
    assert world.systemd.calls == []
    assert world.leftovers() == []


def test_another_version_restarts_once(world: World) -> None:
    world.run(1)
    (world.root / "etc/old").write_text("old")
    world.systemd.calls.clear()
    result = world.run(2)
    assert result["restarted"]
    assert not result["started"]
    assert str(world.root / "etc/web.conf") in result["files_changed"]
    assert f"{world.root / 'etc/web.conf'} changes" in result["restart_reasons"]
    world.assert_runs_what_is_on_disk(2)
    assert world.systemd.calls == ["daemon-reload", f"restart {UNIT}"]
    assert not world.run(2)["changed"]


def test_a_file_that_needs_no_restart_does_not_restart(world: World) -> None:
    world.run()
    parameters = world.describe()
    parameters["files"][2]["content"] = "other\n"
    result = world.run_module("host_service", **parameters)
    assert result["files_changed"] == [str(world.root / "etc/plain")]
    assert not result["restarted"]


def test_wrong_modes_are_fixed_without_a_restart(world: World) -> None:
    world.run()
    (world.root / "etc/web.conf").chmod(0o777)
    (world.root / "srv").chmod(0o777)
    result = world.run()
    assert result["files_changed"] == [str(world.root / "etc/web.conf"), str(world.root / "srv")]
    assert not result["restarted"]
    assert mode_of(world.root / "etc/web.conf") == 0o640
    assert mode_of(world.root / "srv") == 0o750


def test_three_versions_of_a_tree_leave_two(world: World) -> None:
    for version in (1, 2):
        world.run(version)
    parameters = world.describe(2)
    parameters["trees"][0]["files"]["main.py"] = "print(3)\n"
    result = world.run_module("host_service", **parameters)
    kept = {path.name for path in (world.root / "lib").iterdir() if plans.VERSION_NAME.match(path.name)}
    assert len(kept) == 2
    assert os.readlink(world.root / "lib/current") in kept
    assert Path(result["trees"][str(world.root / "lib")]).name == os.readlink(world.root / "lib/current")
    assert not world.run_module("host_service", **parameters)["changed"]


def test_a_damaged_tree_is_built_again(world: World) -> None:
    result = world.run()
    (Path(result["trees"][str(world.root / "lib")]) / "main.py").write_text("print('evil')\n")
    assert world.run()["restarted"]
    world.assert_runs_what_is_on_disk(1)


def test_stopping_and_removing(world: World) -> None:
    world.run()
    gone = {"files": [], "absent": [str(world.units / UNIT)], "state": "stopped", "enabled": False}
    result = world.run(**gone)
    assert result["active_state"] == "inactive"
    assert world.systemd.calls[-3:] == [f"stop {UNIT}", f"disable {UNIT}", "daemon-reload"]
    assert not (world.units / UNIT).exists()
    assert not world.run(**gone)["changed"]


def test_sockets_come_before_the_unit_and_go_with_it(world: World) -> None:
    files = [world.file("units/web.service", UNIT_TEXT), world.file("units/web.socket", "[Install]\nWantedBy=x\n")]
    parameters = {"name": UNIT, "sockets": ["web.socket"], "files": files}
    world.run_module("host_service", **parameters)
    assert world.systemd.calls == [f"enable web.socket {UNIT}", "start web.socket", f"start {UNIT}"]
    world.systemd.calls.clear()
    files[1]["content"] += "# new\n"
    assert world.run_module("host_service", **parameters)["restarted"]
    assert world.systemd.calls == ["daemon-reload", f"stop {UNIT} web.socket", "start web.socket", f"start {UNIT}"]
    assert not world.run_module("host_service", **parameters)["changed"]
    world.systemd.calls.clear()
    world.run_module("host_service", **parameters, state="stopped")
    assert world.systemd.calls == [f"stop web.socket {UNIT}"]


def test_bytes_come_in_base64(world: World) -> None:
    content = bytes(range(256))
    file = {"path": str(world.root / "blob"), "content_b64": base64.b64encode(content).decode(), **world.owner}
    unit = world.file("units/web.service", UNIT_TEXT)
    world.run_module("host_service", name=UNIT, files=[file, unit])
    assert (world.root / "blob").read_bytes() == content


def test_scripts_of_old_are_left_alone_for_units_that_systemd_has_files_of(world: World) -> None:
    world.run()
    assert world.systemd.environments[0] == {"SYSTEMCTL_SKIP_SYSV": "1"}


@pytest.mark.parametrize(
    ("file", "unit", "native"),
    [
        ("web.service", "web.service", True),
        ("web@.service", "web@1.service", True),
        ("web@.service", "web.service", False),
        ("web.service", "web.socket", False),
    ],
)
def test_a_unit_is_native_when_it_or_its_template_has_a_file(world: World, file: str, unit: str, native: bool) -> None:
    (world.units / file).touch()
    assert system._is_native(unit) is native


# --- restart: defer, never ----------------------------------------------------------------------------------------


def test_a_deferred_restart_stays_due_until_a_call_with_auto(world: World) -> None:
    world.run(1)
    first = world.run(2, restart="defer")
    assert first["changed"]
    assert first["restart_pending"]
    assert not first["restarted"]
    second = world.run(2, restart="defer")
    assert not second["changed"]
    assert second["restart_pending"]
    third = world.run(2)
    assert third["restarted"]
    assert not third["restart_pending"]
    world.assert_runs_what_is_on_disk(2)
    assert not world.run(2)["changed"]


def test_defer_starts_what_does_not_run(world: World) -> None:
    result = world.run(1, restart="defer")
    assert result["started"]
    assert not result["restart_pending"]


def test_never_takes_the_running_process_as_up_to_date(world: World) -> None:
    world.run(1)
    result = world.run(2, restart="never")
    assert result["changed"]
    assert not result["restarted"]
    assert not result["restart_pending"]
    assert not world.run(2)["changed"]
    assert world.systemd.starts == 1


# --- healing ------------------------------------------------------------------------------------------------------


def nothing(_world: World) -> None:
    """Nobody did anything between the two runs."""


def restarted_by_hand(world: World) -> None:
    world.systemd.start(UNIT)


def restarted_after_a_reload(world: World) -> None:
    world.systemd.reload()
    world.systemd.start(UNIT)


def reloaded_after_a_restart(world: World) -> None:
    """The trap: the process runs with an old definition, and nothing tells so any more."""
    world.systemd.start(UNIT)
    world.systemd.reload()


def rebooted(world: World) -> None:
    world.systemd.reboot(world.stamps)


@pytest.mark.parametrize(
    "event", [nothing, restarted_by_hand, restarted_after_a_reload, reloaded_after_a_restart, rebooted]
)
def test_a_run_that_is_killed_anywhere_heals(
    world: World, monkeypatch: pytest.MonkeyPatch, event: t.Callable[[World], None]
) -> None:
    """Kill the second version at each of its deeds in turn; the next run has to end with that version running."""
    module = importlib.import_module("ansible_collections.flotilla.cluster.plugins.modules.host_service")
    first, second = (world.describe(version) for version in (1, 2))
    for parameters in (first, second):
        parameters["trees"][0]["compile"] = False  # takes most of the time and is not what this is about
    deeds = 0
    while True:
        deeds += 1
        world.run_module("host_service", **first)
        world.assert_runs_what_is_on_disk(1)
        (world.root / "etc/old").write_text("old")

        with monkeypatch.context() as patch, patch_module_args(second), contextlib.suppress(Killed, SystemExit):
            killer = Killer(patch, deeds)
            module.main()
        if not killer.killed:
            break
        event(world)
        world.run_module("host_service", **second)
        world.assert_runs_what_is_on_disk(2)
        assert world.leftovers() == [], deeds
        third = world.run_module("host_service", **second)
        assert not third["changed"], (deeds, third)
    assert deeds > 20


def test_a_reboot_needs_no_restart(world: World) -> None:
    world.run()
    world.systemd.reboot(world.stamps)
    assert not world.run()["changed"]


def test_a_change_by_hand_is_undone_and_restarts(world: World) -> None:
    world.run()
    (world.root / "etc/web.conf").write_text("broken")
    assert world.run()["restarted"]
    world.assert_runs_what_is_on_disk(1)


def test_without_a_stamp_a_file_that_is_newer_than_the_process_restarts(world: World) -> None:
    world.run()
    for path in world.stamps.glob("*.json"):
        path.unlink()
    assert not world.run()["changed"]
    time.sleep(0.05)  # a start counts as a little later than it is, see START_DELAY
    (world.root / "etc/web.conf").write_text("version = 1\n")
    for path in world.stamps.glob("*.json"):
        path.unlink()
    result = world.run()
    assert result["restarted"]
    assert result["restart_reasons"] == [f"{world.root / 'etc/web.conf'} changed after it was started"]


def test_a_restart_that_failed_is_tried_again(world: World) -> None:
    world.run(1)
    world.systemd.fails_to_start = True
    failed = world.run(2)
    assert failed["failed"]
    assert failed["msg"].startswith("Restarting web.service failed: 'systemctl restart -- web.service' ended with 5")
    world.systemd.fails_to_start = False
    assert world.run(2)["restarted"]
    world.assert_runs_what_is_on_disk(2)


@pytest.mark.parametrize("with_socket", [False, True])
def test_a_unit_that_systemd_tries_again_is_started_with_the_new_files(world: World, with_socket: bool) -> None:
    world.run(1)
    world.unit.active, world.unit.sub = "activating", "auto-restart"
    more: dict[str, t.Any] = {}
    if with_socket:
        more = {"sockets": ["web.socket"], "files": [*world.describe(2)["files"], world.file("units/web.socket", "")]}
    result = world.run(2, **more)
    assert result["started"], result
    assert not result["restarted"]
    world.assert_runs_what_is_on_disk(2)


def test_a_stamp_that_cannot_be_read_is_no_stamp(world: World) -> None:
    world.run()
    (world.stamps / f"{UNIT}.json").write_text("{")
    assert not world.run()["changed"]
    assert system.read_stamp(UNIT) is not None


# --- check mode and differences -----------------------------------------------------------------------------------


def test_check_mode_predicts_what_the_run_does_and_changes_nothing(world: World) -> None:
    for version in (1, 2):
        parameters = world.describe(version)
        before = snapshot(world)
        predicted = world.run_module("host_service", **parameters, _ansible_check_mode=True, _ansible_diff=True)
        assert snapshot(world) == before
        done = world.run_module("host_service", **parameters, _ansible_diff=True)
        for key in ("changed", "files_changed", "started", "restarted", "restart_pending", "active_state", "diff"):
            assert predicted[key] == done[key], key
    calm = world.run_module("host_service", **world.describe(2), _ansible_check_mode=True, _ansible_diff=True)
    assert not calm["changed"]
    assert "diff" not in calm


def snapshot(world: World) -> tuple[t.Any, ...]:
    files = sorted((str(path), path.lstat().st_mtime_ns, path.lstat().st_mode) for path in world.root.rglob("*"))
    return files, list(world.systemd.calls), world.systemd.starts


def test_check_mode_on_a_host_without_the_accounts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "warn", lambda _self, warning: warnings.append(warning))
    parameters = {
        "name": UNIT,
        "groups": [{"name": "flotilla-no-such"}],
        "users": [{"name": "flotilla-no-such"}],
        "files": [
            {"path": str(world.root / "a"), "content": "", "owner": "flotilla-no-such", "group": "flotilla-no-such"},
            {"path": str(world.root / "b"), "content": "", "owner": "flotilla-by-package", "group": "0"},
        ],
    }
    predicted = world.run_module("host_service", **parameters, _ansible_check_mode=True, _ansible_diff=True)
    assert predicted["changed"]
    assert len(warnings) == 1
    assert "flotilla-by-package, which does not exist" in warnings[0]
    assert "user flotilla-no-such\n" in predicted["diff"][-1]["after"]
    refused = world.run_module("host_service", **parameters)
    assert refused["failed"]
    assert "flotilla-by-package, which does not exist" in refused["msg"]
    assert not (world.root / "a").exists()


def test_differences_show_contents_and_states(world: World) -> None:
    world.run(1)
    result = world.run(2, _ansible_diff=True)
    by_path = {entry["before_header"]: entry for entry in result["diff"]}
    conf = by_path[str(world.root / "etc/web.conf")]
    assert (conf["before"], conf["after"]) == ("version = 1\n", "version = 2\n")
    assert by_path[str(world.root / "current")]["after"] == "v2\n"
    assert by_path[UNIT]["after"] == f"{UNIT}: enabled, active, restarted\n"


# --- secrets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["content", "content_b64"])
@pytest.mark.parametrize("fate", ["written", "checked", "refused", "bad path", "bad key"])
def test_a_sensitive_content_is_never_shown(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str, fate: str
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda _self, msg, log_args=None: logged.append(f"{msg}{log_args}"))
    shown = SECRET if key == "content" else base64.b64encode(SECRET.encode()).decode()
    file = {"path": str(world.root / "secret"), key: shown, "sensitive": True, **world.owner}
    more: dict[str, t.Any] = {"_ansible_diff": True, "_ansible_verbosity": 4}
    if fate == "checked":
        more["_ansible_check_mode"] = True
    elif fate == "refused":
        file["validate"] = "sh -c 'cat %s; exit 1'"
    elif fate == "bad path":
        file["path"] = "relative"
    elif fate == "bad key":
        file["colour"] = "red"
    files = [file, world.file("units/web.service", UNIT_TEXT)]
    result = world.run_module("host_service", name=UNIT, files=files, **more)
    assert result.get("failed", False) == (fate in ("refused", "bad path", "bad key"))
    text = str(result) + "".join(logged) + capsys.readouterr().err
    for piece in ("correct horse", "another line", base64.b64encode(SECRET.encode()).decode()):
        assert piece not in text
    # otherwise the lines above would hold for a module that never gets to its log
    assert bool(logged) == (fate != "bad key")
    if fate == "written":
        assert (world.root / "secret").read_text() == SECRET
        entry = next(entry for entry in result["diff"] if entry["after_header"].endswith("/secret"))
        assert "not shown" in entry["after"]


def test_other_contents_are_shown_beside_a_sensitive_one(world: World) -> None:
    files = [
        world.file("secret", "on", sensitive=True),
        world.file("open", "a line that is fine to see\n"),
        world.file("units/web.service", UNIT_TEXT),
    ]
    result = world.run_module("host_service", name=UNIT, files=files, _ansible_diff=True)
    assert "a line that is fine to see\n" in [entry["after"] for entry in result["diff"]]


# --- refusing -----------------------------------------------------------------------------------------------------


def test_a_refused_content_changes_nothing(world: World) -> None:
    world.run(1)
    parameters = world.describe(2)
    parameters["files"][2]["validate"] = "grep -q never %s"
    before = world.unit.invocation
    result = world.run_module("host_service", **parameters)
    assert result["msg"].startswith(
        f"The new content of {world.root / 'etc/plain'} was refused by 'grep -q never %s' (it ended with 1)"
    )
    assert world.unit.invocation == before
    assert world.leftovers() == []
    world.assert_runs_what_is_on_disk(1)
    checked = world.run_module("host_service", **parameters, _ansible_check_mode=True)
    assert checked["msg"] == result["msg"]


def test_a_unit_that_dies_is_reported_with_its_journal(world: World) -> None:
    world.systemd.dies_after_start = True
    result = world.run()
    assert result["failed"]
    assert result["msg"] == (
        "web.service was started but did not stay up. web.service is failed (failed)."
        " Its journal ends with:\nthe last thing it said"
    )
    assert result["journal"] == ["the last thing it said"]


def test_a_unit_that_does_not_answer_is_reported_with_what_was_asked(world: World) -> None:
    check = {"type": "command", "argv": ["sh", "-c", "echo not yet; exit 3"]}
    result = world.run(ready=[check], ready_timeout=1)
    assert result["not_ready"] == ["'sh -c 'echo not yet; exit 3'': it ended with 3: not yet"] or (
        len(result["not_ready"]) == 1 and result["not_ready"][0].endswith("it ended with 3: not yet")
    )
    assert result["msg"].startswith("web.service is not ready after 1 s: ")
    assert "web.service is active (running). Its journal ends with:" in result["msg"]
    # what was started is known all the same: the next run waits again, and does not restart
    again = world.run(ready=[{"type": "command", "argv": ["true"]}])
    assert not again["changed"]


# --- several services ---------------------------------------------------------------------------------------------


class Two(t.NamedTuple):
    world: World
    services: list[dict[str, t.Any]]

    def run(self, *changes: dict[str, t.Any], **more: t.Any) -> dict[str, t.Any]:
        first, second = changes or ({}, {})
        changed = [{**self.services[0], **first}, {**self.services[1], **second}]
        return self.world.run_module("host_service", services=changed, **more)


@pytest.fixture
def two(world: World) -> Two:
    other = {
        "name": "other.service",
        "files": [{"path": str(world.units / "other.service"), "content": UNIT_TEXT, **world.owner}],
    }
    return Two(world, [world.describe(), other])


def test_several_services_come_up_in_one_call(two: Two) -> None:
    result = two.run()
    assert result["changed"]
    assert {name: one["active_state"] for name, one in result["services"].items()} == {
        UNIT: "active",
        "other.service": "active",
    }
    first, *starts = two.world.systemd.calls
    assert first == f"enable {UNIT} other.service"
    assert sorted(starts) == ["start other.service", f"start {UNIT}"]
    two.world.assert_runs_what_is_on_disk(1)

    two.world.systemd.calls.clear()
    again = two.run()
    assert not again["changed"]
    assert not any(one["changed"] for one in again["services"].values())
    assert two.world.systemd.calls == []


def test_only_the_service_that_changed_restarts_and_is_shown(two: Two) -> None:
    two.run()
    two.world.systemd.calls.clear()
    result = two.run(
        {}, {"files": [{**two.services[1]["files"][0], "content": UNIT_TEXT + "# new\n"}]}, _ansible_diff=True
    )
    assert result["services"]["other.service"]["restarted"]
    assert not result["services"][UNIT]["changed"]
    assert [part["after_header"] for part in result["diff"]] == [
        str(two.world.units / "other.service"),
        "other.service",
    ]
    assert two.world.systemd.calls == ["daemon-reload", "restart other.service"]


def test_nothing_is_changed_when_one_of_them_cannot_be_carried_out(two: Two) -> None:
    (two.world.units / "other.service").mkdir()
    result = two.run()
    assert "should be a file but is a directory" in result["msg"]
    assert two.world.systemd.calls == []
    assert not (two.world.units / UNIT).exists()


def test_two_services_may_not_describe_one_file(two: Two) -> None:
    result = two.run({}, {"files": two.services[0]["files"]})
    assert f"is described for {UNIT} and for other.service; keep one of them." in result["msg"]
    assert two.world.systemd.calls == []


def test_others_come_up_when_one_does_not(two: Two) -> None:
    failing = {"ready": [{"type": "command", "argv": ["false"]}], "ready_timeout": 1}
    result = two.run({}, failing)
    assert result["msg"].startswith("other.service is not ready after 1 s: 'false': it ended with 1: .")
    assert result["journal"]
    two.world.assert_runs_what_is_on_disk(1)


def test_without_waiting_it_is_said_whether_it_is_ready(two: Two) -> None:
    result = two.run({}, {"ready": [{"type": "command", "argv": ["false"]}], "wait": False})
    assert result["services"][UNIT]["ready"]
    assert not result["services"]["other.service"]["ready"]
    again = two.run({}, {"ready": [{"type": "command", "argv": ["true"]}], "wait": False})
    assert again["services"]["other.service"]["ready"]
    assert not again["changed"]


def test_one_name_or_several_services(world: World) -> None:
    assert "mutually exclusive" in world.run_module("host_service", name=UNIT, services=[{"name": UNIT}])["msg"]
    assert "one of the following is required" in world.run_module("host_service", ready_timeout=3)["msg"]


def test_a_masked_unit_is_refused(world: World) -> None:
    (world.units / UNIT).write_text(UNIT_TEXT)
    world.unit.masked = True
    result = world.run_module("host_service", name=UNIT, files=[world.file("a", "a")])
    assert result["msg"] == (
        "Nothing was changed, because this cannot be carried out: web.service is masked and cannot be started;"
        " run 'systemctl unmask web.service' on the host if that is not meant to be."
    )
    assert not (world.root / "a").exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"name": "web"}, "name: 'web' is no name of a systemd unit such as 'etcd.service'; give it with its type."),
        ({"files": [{"path": "/a/../b", "content": ""}]}, "files: '/a/../b' must be an absolute path without"),
        ({"files": [{"path": "/a/b", "content": "", "mode": "9"}]}, "files[/a/b]: mode '9' must be octal in quotes"),
        ({"files": [{"path": "/a/b", "content": "", "mode": "77777"}]}, "files[/a/b]: mode '77777' must be at most"),
        ({"files": [{"path": "/a/b", "content_b64": "?"}]}, "files[/a/b]: content_b64 is not base64."),
        ({"files": [{"path": "/a/b", "content": "", "validate": "true"}]}, "files[/a/b]: validate 'true' must hold %s"),
        ({"files": [{"path": "/a/b"}]}, "one of the following is required: content, content_b64 found in files"),
        ({"absent": ["/etc"]}, "absent: '/etc' is a top-level directory, which this module does not remove."),
        ({"absent": ["/"]}, "absent: '/' must be an absolute path"),
        ({"trees": [{"root": "/a", "files": {"../b": ""}}]}, "trees[/a]: '../b' must be a relative path inside"),
        ({"trees": [{"root": "/a", "files": {"/b": ""}}]}, "trees[/a]: '/b' must be a relative path inside the tree"),
        ({"trees": [{"root": "/a", "files": {}}]}, "trees[/a]: files is empty; a tree needs at least one file."),
        ({"trees": [{"root": "/a", "link": "0" * 12, "files": {"b": ""}}]}, "trees[/a]: link '000000000000' must be"),
        ({"groups": [{"name": "a b"}]}, "groups: 'a b' is no name of a system account"),
        ({"users": [{"name": "-rm"}]}, "users: '-rm' is no name of a system account"),
        ({"sockets": ["x"]}, "sockets: 'x' is no name of a systemd unit"),
        ({"ready": [{"type": "tcp", "port": 70000}]}, "ready: port 70000 must be between 1 and 65535."),
        ({"ready": [{"type": "tcp"}]}, "type is tcp but all of the following are missing: port found in ready"),
        ({"ready": [{"type": "http"}]}, "type is http but any of the following are missing: url, unix_socket"),
        ({"ready": [{"type": "http", "url": "ftp://x/"}]}, "ready: url 'ftp://x/' must look like https://host:port/"),
        ({"ready": [{"type": "http", "url": "http://x:y/"}]}, "ready: url 'http://x:y/' has no number as its port."),
        ({"ready": [{"type": "command", "argv": []}]}, "ready: argv of a command must name a program."),
        ({"ready_timeout": 0}, "ready_timeout: 0 must be at least 1 second."),
        ({"restart": "perhaps"}, "value of restart must be one of: auto, defer, never, got: perhaps"),
    ],
)
def test_bad_parameters_give_one_sentence(world: World, parameters: dict[str, t.Any], message: str) -> None:
    result = world.run_module("host_service", **{"name": UNIT, **parameters})
    assert result["failed"]
    assert result["msg"].startswith(message)
    assert "\n" not in result["msg"]
    assert world.systemd.calls == []


def test_a_directory_that_cannot_be_written_gives_one_sentence(world: World) -> None:
    (world.root / "plain").write_text("")
    result = world.run_module("host_service", name=UNIT, files=[world.file("plain/below", "x")])
    assert result["msg"].startswith(f"{world.root / 'plain'}")
    assert "Traceback" not in str(result)


def test_a_second_run_waits_for_the_first_and_gives_up_in_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "LOCK_TIMEOUT", 0)
    with system.locked(UNIT):
        result = world.run()
    assert result["msg"].startswith("Another run has been working on web.service on this host for more than 0 s")
    assert world.systemd.calls == []
    assert world.run()["started"]


# --- users of etcd ------------------------------------------------------------------------------------------------

PASSWORD = "p" * 40
ACCESS = {
    "endpoints": ["http://127.0.0.1:1"],
    "username": "root",
    "password": PASSWORD,
    "users": [{"name": "root", "password": PASSWORD}],
}


@pytest.fixture
def access(monkeypatch: pytest.MonkeyPatch) -> t.Any:
    """What `_host_access` does, played: it notes how it was called and returns, or raises, what it is told to."""
    pytest.importorskip("requests")
    from ansible_collections.flotilla.cluster.plugins.module_utils import _host_access
    from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError

    class Played:
        answer: t.Any = _host_access.Done(["user root is new"], ["a" * 32], {"before": {}, "after": {}})
        problem = ""

        def __init__(self) -> None:
            self.calls: list[bool] = []

        def make(self, params: dict[str, t.Any], deadline: float, check_mode: bool) -> t.Any:
            self.calls.append(check_mode)
            if self.problem:
                raise ClusterError(self.problem)
            return self.answer

    played = Played()
    monkeypatch.setattr(_host_access, "make", played.make)
    return played


def test_users_are_made_once_the_unit_is_ready(world: World, access: t.Any) -> None:
    result = world.run(etcd_auth=ACCESS, _ansible_diff=True)
    assert result["etcd_auth"] == {"changes": ["user root is new"], "removed": ["a" * 32]}
    assert result["diff"][-1] == {"before": {}, "after": {}}
    access.answer = access.answer._replace(changes=[], removed=[])
    again = world.run(etcd_auth=ACCESS, _ansible_diff=True)
    assert (again["changed"], again["etcd_auth"]["changes"], "diff" in again) == (False, [], False)
    access.answer = access.answer._replace(changes=["user root gets role root"])
    assert world.run(etcd_auth=ACCESS)["changed"] is True
    assert access.calls == [False, False, False]
    assert PASSWORD not in str(result) + str(again)


def test_check_mode_only_looks_and_takes_it_if_nobody_answers(world: World, access: t.Any) -> None:
    result = world.run(etcd_auth=ACCESS, _ansible_check_mode=True)
    assert result["etcd_auth"]["changes"] == ["user root is new"]
    access.problem = "nobody is there"
    assert "etcd_auth" not in world.run(etcd_auth=ACCESS, _ansible_check_mode=True)
    assert access.calls == [True, True]


def test_users_that_cannot_be_made_fail_the_call(world: World, access: t.Any) -> None:
    access.problem = "etcd answered 'no'; ask again"
    result = world.run(etcd_auth=ACCESS)
    assert result["msg"] == f"{UNIT}: its users cannot be made: etcd answered 'no'; ask again."


def test_users_wait_for_a_unit_that_is_not_waited_for(world: World, access: t.Any) -> None:
    never = [{"type": "tcp", "port": 1}]
    result = world.run(etcd_auth=ACCESS, ready=never, wait=False)
    assert (result["ready"], "etcd_auth" in result, access.calls) == (False, False, [])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"nobody": 1}, "etcd_auth: "),
        ({"users": []}, "etcd_auth: users has no root with the role root"),
        ({"machines": ["core-01"]}, "etcd_auth: machines has 'core-01', which is no machine id"),
    ],
)
def test_the_option_is_judged_before_anything_is_done(
    world: World, access: t.Any, wrong: dict[str, t.Any], sentence: str
) -> None:
    result = world.run(etcd_auth={**ACCESS, **wrong})
    assert result["msg"].startswith(sentence)
    assert PASSWORD not in str(result)
    assert (access.calls, world.systemd.calls) == ([], [])
