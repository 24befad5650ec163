# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What has to be done so that a running host is as described."""

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_apply as apply
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import PathState, UnitState

HELLO = "/etc/systemd/system/hello.service"
TEXT = "[Service]\nExecStart=/bin/sleep infinity\n"
CONFIG = {
    "write_files": [{"path": "/etc/motd", "content": "hello\n"}],
    "coreos": {
        "units": [
            {"name": "hello.service", "command": "start", "content": TEXT},
            {"name": "old.service", "mask": True},
        ],
        "etcd2": {"name": "a"},
    },
}


def wanted(config=None, persistent=True, **addresses):
    return apply.desired_from(models.build(CONFIG if config is None else config, addresses), persistent)


def file_state(file, **changes):
    fields = {"kind": "file", "owner": file.owner, "group": file.group, "mode": file.mode, "content": file.content}
    return PathState(**{**fields, **changes})


def settled(desired, **changes):
    """A host that is as described."""
    plan = apply.make_plan(desired, apply.Observed())
    paths = {file.path: file_state(file) for file in plan.write}
    paths.update({path: PathState(kind="link", target=target) for path, target in desired.links.items()})
    units = {"hello.service": UnitState("loaded", "active", "running", "static")}
    return apply.Observed(**{"paths": paths, "units": units, "manifest": plan.manifest, **changes})


def test_a_fresh_host_gets_all_of_it():
    plan = apply.make_plan(wanted(), apply.Observed())
    assert [file.path for file in plan.write] == [
        HELLO,
        "/etc/systemd/system/etcd2.service.d/20-cloudinit.conf",
        "/etc/motd",
    ]
    assert dict(plan.links)["/etc/systemd/system/old.service"] == "/dev/null"
    assert plan.reload
    assert plan.actions == (("start", "hello.service"),)


def test_a_host_that_is_right_is_left_alone():
    desired = wanted()
    assert not apply.make_plan(desired, settled(desired)).changed


def test_sections_go_where_they_are_wanted():
    assert "/run/systemd/system/etcd2.service.d/20-cloudinit.conf" in apply.paths_of(
        wanted(persistent=False), apply.Manifest()
    )


def test_what_runs_is_restarted_when_its_own_files_change():
    desired = wanted()
    observed = settled(desired)
    paths = {**observed.paths, HELLO: PathState("file", "root", 0, "root", 0, 0o644, content=b"[Service]\n")}
    assert apply.make_plan(desired, observed._replace(paths=paths)).actions == (("restart", "hello.service"),)
    paths = {**observed.paths, "/etc/motd": PathState("file", "root", 0, "root", 0, 0o644, content=b"")}
    assert apply.make_plan(desired, observed._replace(paths=paths)).actions == ()


def test_what_a_killed_call_left_is_made_up_for():
    desired = wanted()
    observed = settled(desired)
    plan = apply.make_plan(desired, observed._replace(manifest=observed.manifest._replace(pending=("hello.service",))))
    assert (plan.reload, plan.actions) == (True, (("restart", "hello.service"),))


def test_what_is_dropped_is_removed_and_stopped():
    observed = settled(wanted())
    plan = apply.make_plan(wanted({}), observed)
    assert set(plan.remove) == {
        "/etc/motd", HELLO, "/etc/systemd/system/etcd2.service.d/20-cloudinit.conf", "/etc/systemd/system/old.service",
        "/etc/systemd/system/multi-user.target.wants/hello.service",
    }  # fmt: skip
    assert plan.stop == ("hello.service",)
    assert plan.actions == ()
    assert plan.manifest == apply.Manifest()


def test_what_somebody_else_removed_needs_no_removal():
    observed = settled(wanted())
    assert apply.make_plan(wanted({}), observed._replace(paths={}, units={})).remove == ()


@pytest.mark.parametrize(
    ("command", "running", "touched", "action"),
    [
        ("start", False, False, "start"),
        ("start", True, False, ""),
        ("start", True, True, "restart"),
        ("restart", True, False, ""),
        ("stop", True, False, "stop"),
        ("stop", False, True, ""),
        ("reload", True, True, "reload"),
        ("try-restart", False, True, ""),
        ("reload-or-try-restart", True, False, ""),
        ("", True, True, ""),
    ],
)
def test_commands(command, running, touched, action):
    state = UnitState("loaded", "active" if running else "inactive", "running" if running else "dead")
    assert apply._action(models.Unit("a.service", command=command), state, touched) == action


def test_lines_of_others_are_kept():
    desired = wanted({"users": [{"name": "a", "ssh_authorized_keys": ["k2"]}], "coreos": {"update": {"group": "beta"}}})
    observed = apply.Observed(
        paths={
            "/etc/coreos/update.conf": PathState("file", "root", 0, "root", 0, 0o600, content=b"X=1\nGROUP=stable\n")
        },
        accounts={"a": apply.Account("", ("own", "k1"))},
        manifest=apply.Manifest(keys={"a": ("k1",)}),
    )
    plan = apply.make_plan(desired, observed)
    assert plan.keys == (("a", ("own", "k2")),)
    assert (plan.write[0].content, plan.write[0].mode) == (b"X=1\nGROUP=beta\n", 0o600)


def test_an_existing_user_keeps_all_but_password_and_keys():
    desired = wanted({"users": [{"name": "a", "shell": "/bin/zsh", "passwd": "$6$new"}]})
    plan = apply.make_plan(desired, apply.Observed(accounts={"a": apply.Account("$6$old")}))
    assert (plan.users, plan.passwords) == ((), (("a", "$6$new"),))


def test_what_is_in_the_way_is_told():
    paths = {"/etc/motd": PathState("directory"), "/etc/systemd/system/old.service": PathState("directory")}
    assert len(apply.make_plan(wanted(), apply.Observed(paths=paths)).problems) == 2


def test_the_command_that_makes_a_user():
    user = models.User("a", gecos="A", primary_group="users", groups=("x", "y"), system=True, no_create_home=True)
    assert apply.user_command(user) == [
        "useradd", "--comment", "A", "--gid", "users", "--groups", "x,y", "--shell", "/bin/bash", "--no-create-home",
        "--no-user-group", "--system", "a",
    ]  # fmt: skip


def test_a_manifest_is_read_as_it_was_saved():
    manifest = apply.make_plan(wanted(), apply.Observed()).manifest
    assert apply.Manifest.from_data(manifest.as_data()) == manifest
    for damaged in ({}, {"files": []}, []):
        with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
            apply.Manifest.from_data(damaged)


@pytest.mark.parametrize(("persistent", "folder"), [(True, "/etc"), (False, "/run")])
def test_a_strategy_of_off_stops_and_masks_who_would_reboot(persistent, folder):
    desired = wanted({"coreos": {"update": {"reboot_strategy": "off"}}}, persistent)
    running = {"locksmithd.service": UnitState("loaded", "active", "running", "enabled")}
    plan = apply.make_plan(desired, apply.Observed(units=running))
    assert plan.links == ((f"{folder}/systemd/system/locksmithd.service", "/dev/null"),)
    assert plan.actions == (("stop", "locksmithd.service"),)
    assert apply.make_plan(desired, apply.Observed()).actions == ()


def test_who_reads_the_settings_of_updates_is_restarted_where_it_runs():
    desired = wanted({"coreos": {"update": {"group": "beta"}}})
    assert set(apply.units_of(desired, apply.Manifest())) == {"locksmithd.service", "update-engine.service"}
    running = {"update-engine.service": UnitState("loaded", "active", "running", "enabled")}
    assert apply.make_plan(desired, apply.Observed(units=running)).actions == (
        ("try-restart", "update-engine.service"),
    )


def test_an_owner_without_a_group_leaves_the_group_as_chown_does():
    entry = {"path": "/etc/x", "content": "x"}
    files = {
        owner: models.build({"write_files": [{**entry, "owner": owner}]}).files[0]
        for owner in ("elroy", "elroy:docker")
    }
    assert [(one.owner, one.group) for one in files.values()] == [("elroy", "root"), ("elroy", "docker")]
