# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What host_service decides, without a host."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_plan as plans
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import (
    Desired,
    DirectorySpec,
    FileSpec,
    LinkSpec,
    Observed,
    PathState,
    Stamp,
    TreeSpec,
    TreeState,
    UnitState,
    UserSpec,
)

UNIT = "web.service"
UNIT_PATH = "/etc/systemd/system/web.service"
CONF = "/etc/web/web.conf"
UNIT_TEXT = b"[Service]\nExecStart=/usr/bin/web\n[Install]\nWantedBy=multi-user.target\n"
STARTED = 1_000_000.0
BEFORE, AFTER = STARTED - 100, STARTED + 100

UNIT_FILE = FileSpec(UNIT_PATH, UNIT_TEXT)
CONF_FILE = FileSpec(CONF, b"port = 80\n")
TREE = TreeSpec("/usr/lib/web", {"web/__init__.py": b"", "web/main.py": b"print(1)\n"})


def on_disk(spec: FileSpec, **more: t.Any) -> PathState:
    """A file as it would be found when it is as described."""
    state = PathState("file", spec.owner, 0, spec.group, 0, spec.mode, content=spec.content, changed_at=BEFORE)
    return state._replace(**more)


def running(**more: t.Any) -> UnitState:
    return UnitState("loaded", "active", "running", "enabled", "inv-1", STARTED)._replace(**more)


def describe(**more: t.Any) -> Desired:
    return Desired(UNIT, files=(UNIT_FILE, CONF_FILE))._replace(**more)


def as_described(desired: Desired, **more: t.Any) -> Observed:
    """A host that matches the description, with the stamp of an earlier run."""
    paths = {spec.path: on_disk(spec) for spec in desired.files}
    paths.update({d.path: PathState("directory", d.owner, 0, d.group, 0, d.mode) for d in desired.directories})
    paths.update({x.path: PathState("link", target=x.target, changed_at=BEFORE) for x in desired.links})
    paths.update({x.link_path: PathState("link", target=x.version, changed_at=BEFORE) for x in desired.trees})
    observed = Observed(
        paths=paths,
        trees={x.root: TreeState(x.version, True, (x.version,)) for x in desired.trees},
        users={"root": frozenset(), **{user.name: frozenset(user.groups) for user in desired.users}},
        groups=frozenset({"root", *desired.groups}),
        units={name: running() for name in (desired.name, *desired.sockets)},
        stamp=Stamp(plans.restart_digest(desired), "inv-1"),
    )
    return observed._replace(**more)


def with_path(observed: Observed, path: str, state: PathState) -> Observed:
    return observed._replace(paths={**observed.paths, path: state})


def with_unit(observed: Observed, name: str, unit: UnitState) -> Observed:
    return observed._replace(units={**observed.units, name: unit})


# --- nothing to do ------------------------------------------------------------------------------------------------


def test_a_host_as_described_needs_nothing() -> None:
    desired = describe(
        groups=("web",),
        users=(UserSpec("web", "web", groups=("adm",)),),
        directories=(DirectorySpec("/srv/web", "web", "web"),),
        links=(LinkSpec("/usr/local/bin/web", "/usr/lib/web/current/web"),),
        trees=(TREE,),
        sockets=("web.socket",),
        absent=("/etc/web/old.conf",),
    )
    observed = as_described(desired, groups=frozenset({"root", "web", "adm"}))
    observed = with_path(observed, "/srv/web", PathState("directory", "web", 7, "web", 7, 0o755))
    plan = plans.make_plan(desired, observed)
    assert plan.problems == plan.unknown_owners == ()
    assert not plan.changed
    assert plan.action == "none"
    assert not plan.restart_due
    assert plan.paths == []


def test_an_empty_host_gets_everything() -> None:
    desired = describe(
        groups=("web",),
        users=(UserSpec("web", "web"),),
        directories=(DirectorySpec("/srv/web", "web", "web"),),
        links=(LinkSpec("/usr/local/bin/web", "/usr/lib/web/current/web"),),
        trees=(TREE,),
        sockets=("web.socket",),
    )
    plan = plans.make_plan(desired, Observed(users={"root": frozenset()}, groups=frozenset({"root"})))
    assert plan.problems == plan.unknown_owners == ()
    assert plan.changed
    assert plan.groups == ("web",)
    assert [user.name for user in plan.users] == ["web"]
    assert plan.files == desired.files
    assert plan.directories == desired.directories
    assert plan.links == desired.links
    assert plan.trees == plan.switches == desired.trees
    assert plan.enable == ("web.socket", UNIT)
    assert plan.start_sockets == ("web.socket",)
    assert plan.reload
    assert plan.action == "start"
    assert not plan.restart_due


# --- files, directories, links ------------------------------------------------------------------------------------


def test_another_content_is_written_and_restarts() -> None:
    desired = describe()
    observed = with_path(as_described(desired), CONF, on_disk(CONF_FILE, content=b"port = 81\n"))
    plan = plans.make_plan(desired, observed)
    assert plan.files == (CONF_FILE,)
    assert plan.action == "restart"
    assert plan.reasons == (f"{CONF} changes",)
    assert plan.touches_running
    assert not plan.reload


def test_another_content_of_a_file_that_needs_no_restart() -> None:
    desired = describe(files=(UNIT_FILE, CONF_FILE._replace(restart=False)))
    observed = with_path(as_described(desired), CONF, on_disk(CONF_FILE, content=b"port = 81\n"))
    plan = plans.make_plan(desired, observed)
    assert [spec.path for spec in plan.files] == [CONF]
    assert plan.action == "none"
    assert not plan.touches_running


@pytest.mark.parametrize("wrong", [{"mode": 0o600}, {"owner": "web", "uid": 7}, {"group": "web", "gid": 7}])
def test_wrong_owner_or_mode_is_fixed_without_a_restart(wrong: dict[str, t.Any]) -> None:
    desired = describe()
    plan = plans.make_plan(desired, with_path(as_described(desired), CONF, on_disk(CONF_FILE, **wrong)))
    assert plan.files == ()
    assert plan.attributes == (CONF_FILE,)
    assert plan.action == "none"
    assert plan.changed


def test_an_owner_may_be_a_number() -> None:
    desired = describe(files=(CONF_FILE._replace(owner="0", group="0"),))
    observed = with_path(as_described(desired), CONF, on_disk(CONF_FILE))
    plan = plans.make_plan(desired, observed)
    assert not plan.changed
    assert plan.unknown_owners == ()


def test_a_changed_unit_file_reloads_systemd() -> None:
    desired = describe()
    observed = with_path(as_described(desired), UNIT_PATH, on_disk(UNIT_FILE, content=UNIT_TEXT + b"\n"))
    plan = plans.make_plan(desired, observed)
    assert plan.reload
    assert plan.enable == plan.reenable == ()
    assert plan.action == "restart"


def test_a_link_in_place_of_a_file_is_replaced() -> None:
    desired = describe()
    observed = with_path(as_described(desired), CONF, PathState("link", target="/etc/other"))
    assert plans.make_plan(desired, observed).files == (CONF_FILE,)


@pytest.mark.parametrize(
    ("desired", "path", "kind"),
    [
        (describe(), CONF, "directory"),
        (describe(), CONF, "other"),
        (describe(directories=(DirectorySpec("/srv/web"),)), "/srv/web", "file"),
        (describe(links=(LinkSpec("/usr/local/bin/web", "x"),)), "/usr/local/bin/web", "file"),
        (describe(links=(LinkSpec("/usr/local/bin/web", "x"),)), "/usr/local/bin/web", "directory"),
    ],
)
def test_something_else_in_the_way_is_a_problem(desired: Desired, path: str, kind: str) -> None:
    plan = plans.make_plan(desired, with_path(as_described(desired), path, PathState(kind)))
    assert len(plan.problems) == 1
    assert path in plan.problems[0]
    assert "move it away" in plan.problems[0]


def test_a_link_with_another_target_is_switched_and_restarts() -> None:
    desired = describe(links=(LinkSpec("/opt/web/current", "v2"), LinkSpec("/usr/local/bin/web", "x", restart=False)))
    observed = with_path(as_described(desired), "/opt/web/current", PathState("link", target="v1"))
    plan = plans.make_plan(desired, observed)
    assert plan.links == (desired.links[0],)
    assert plan.action == "restart"
    other = with_path(as_described(desired), "/usr/local/bin/web", PathState("link", target="y"))
    plan = plans.make_plan(desired, other)
    assert plan.links == (desired.links[1],)
    assert plan.action == "none"


def test_what_has_to_be_absent_is_removed_and_restarts() -> None:
    drop_in = "/etc/systemd/system/web.service.d/old.conf"
    desired = describe(absent=(drop_in, "/etc/web/never-there"))
    plan = plans.make_plan(desired, with_path(as_described(desired), drop_in, PathState("file", content=b"")))
    assert plan.remove == (drop_in,)
    assert plan.reload
    assert plan.action == "restart"


def test_descriptions_that_no_host_can_match() -> None:
    desired = describe(
        files=(CONF_FILE, CONF_FILE), directories=(DirectorySpec("/srv/web"),), absent=("/srv/web", "/srv/old")
    )
    problems = plans.make_plan(desired, as_described(desired)).problems
    assert len(problems) == 2
    assert problems[0].startswith(f"{CONF} is described more than once")
    assert problems[1].startswith("/srv/web is both described and listed in absent")


# --- accounts -----------------------------------------------------------------------------------------------------


def test_a_missing_membership_is_added_to_a_user_that_exists() -> None:
    desired = describe(users=(UserSpec("web", "web", groups=("adm", "docker")),), groups=("web",))
    observed = as_described(
        desired,
        users={"web": frozenset({"adm"}), "root": frozenset()},
        groups=frozenset({"root", "web", "adm", "docker"}),
    )
    plan = plans.make_plan(desired, observed)
    assert plan.users == ()
    assert plan.memberships == (("web", ("docker",)),)


def test_owners_that_nobody_makes_are_named() -> None:
    desired = describe(
        files=(CONF_FILE._replace(owner="web", group="www"),), users=(UserSpec("job", "job", groups=("adm",)),)
    )
    unknown = plans.make_plan(desired, Observed(users={"root": frozenset()}, groups=frozenset({"root"}))).unknown_owners
    assert len(unknown) == 4
    assert unknown[0].startswith(f"{CONF} should belong to user web")
    assert unknown[1].startswith(f"{CONF} should belong to group www")
    assert [sentence.split(",")[0] for sentence in unknown[2:]] == [
        "user job should be in group job",
        "user job should be in group adm",
    ]


# --- trees --------------------------------------------------------------------------------------------------------


def test_the_version_of_a_tree_comes_from_its_content() -> None:
    assert plans.VERSION_NAME.match(TREE.version)
    assert TreeSpec("/x", dict(reversed(list(TREE.files.items())))).version == TREE.version
    texts = [{"a": b"bc"}, {"ab": b"c"}, {"a": b"b", "c": b""}, {"a": b"b", "": b"c"}]
    assert len({TreeSpec("/x", files).version for files in texts}) == len(texts)


def test_a_new_version_is_built_and_switched_to_and_the_last_one_is_kept() -> None:
    desired = describe(trees=(TREE,))
    old = TreeState("b" * 12, False, ("c" * 12, "b" * 12, "a" * 12))
    observed = as_described(desired, trees={TREE.root: old})
    plan = plans.make_plan(desired, observed)
    assert plan.trees == plan.switches == (TREE,)
    assert plan.prune == (f"{TREE.root}/{'c' * 12}", f"{TREE.root}/{'a' * 12}")
    assert plan.action == "restart"
    # and what that leaves behind is left alone by the next run
    after = as_described(desired, trees={TREE.root: TreeState(TREE.version, True, (TREE.version, "b" * 12))})
    assert not plans.make_plan(desired, after).changed


def test_a_version_that_is_damaged_is_built_again() -> None:
    desired = describe(trees=(TREE,))
    observed = as_described(desired, trees={TREE.root: TreeState(TREE.version, False, (TREE.version,))})
    plan = plans.make_plan(desired, observed)
    assert plan.trees == (TREE,)
    assert plan.switches == ()
    assert plan.action == "restart"


def test_a_tree_that_needs_no_restart() -> None:
    desired = describe(trees=(TREE._replace(restart=False),))
    observed = as_described(desired, trees={TREE.root: TreeState("a" * 12, False, ("a" * 12,))})
    plan = plans.make_plan(desired, observed)
    assert plan.switches == desired.trees
    assert plan.action == "none"
    assert not plan.touches_running


# --- enabling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "own", "enabled", "step"),
    [
        ("enabled", True, True, ""),
        ("disabled", True, True, "enable"),
        ("", True, True, "enable"),
        ("linked", True, True, "enable"),
        ("enabled-runtime", True, True, "enable"),
        ("static", False, True, ""),
        ("generated", False, True, ""),
        ("alias", False, True, ""),
        ("disabled", False, True, "enable"),
        ("", False, True, "enable"),
        ("masked", False, True, "masked"),
        ("masked", True, True, "enable"),
        ("enabled", False, False, "disable"),
        ("enabled-runtime", False, False, "disable"),
        ("disabled", False, False, ""),
        ("masked", False, False, ""),
        ("", False, False, ""),
    ],
)
def test_enabling(state: str, own: bool, enabled: bool, step: str) -> None:
    desired = describe(files=(UNIT_FILE,) if own else (), enabled=enabled)
    observed = with_unit(as_described(desired), UNIT, running(file_state=state))
    plan = plans.make_plan(desired, observed)
    found = {"enable": plan.enable, "reenable": plan.reenable, "disable": plan.disable}
    assert {name for name, units in found.items() if units} == ({step} - {"", "masked"})
    assert [problem for problem in plan.problems if "masked" in problem] == list(plan.problems)
    assert bool(plan.problems) == (step == "masked")


def test_a_unit_without_install_section_is_not_enabled() -> None:
    spec = FileSpec(UNIT_PATH, b"[Service]\nExecStart=/usr/bin/web\n")
    desired = describe(files=(spec,))
    assert plans.make_plan(desired, Observed()).enable == ()


def test_a_static_unit_that_gets_an_install_section_is_enabled() -> None:
    desired = describe(files=(UNIT_FILE,))
    observed = with_path(as_described(desired), UNIT_PATH, on_disk(UNIT_FILE, content=b"[Service]\n"))
    observed = with_unit(observed, UNIT, running(file_state="static"))
    assert plans.make_plan(desired, observed).enable == (UNIT,)


def test_a_unit_whose_install_section_changes_is_enabled_anew() -> None:
    desired = describe(files=(UNIT_FILE,))
    before = UNIT_TEXT.replace(b"multi-user", b"graphical")
    plan = plans.make_plan(desired, with_path(as_described(desired), UNIT_PATH, on_disk(UNIT_FILE, content=before)))
    assert plan.reenable == (UNIT,)
    assert plan.enable == ()


def test_install_section_is_read_like_systemd_does() -> None:
    text = b"[Install]\n# no\n; no\n\n  WantedBy=a \n[Service]\nExecStart=x\n[Install]\nAlias=b\n\xff\n"
    assert plans.install_section(text) == ["WantedBy=a", "Alias=b", "\ufffd"]


def test_the_file_of_an_instance_is_that_of_its_template() -> None:
    assert plans.unit_file_name("web@1.service") == "web@.service"
    assert plans.unit_file_name("web.service") == "web.service"
    spec = FileSpec("/etc/systemd/system/web@.service", UNIT_TEXT)
    assert plans.own_unit_file("web@1.service", describe(files=(CONF_FILE, spec))) == spec
    assert plans.own_unit_file("web@1.service", describe()) is None


@pytest.mark.parametrize("name", ["etcd.service", "web@1.service", "dev-sda\\x2d.mount", "a.b-c_d:e.timer"])
def test_names_of_units(name: str) -> None:
    assert plans.UNIT_NAME.match(name)


@pytest.mark.parametrize(
    "name", ["etcd", "etcd.conf", "../x.service", "a/b.service", "web@.service", "", "a b.service"]
)
def test_what_is_no_name_of_a_unit(name: str) -> None:
    assert not plans.UNIT_NAME.match(name)


# --- starting and restarting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "sub", "action"),
    [
        ("active", "running", "none"),
        ("active", "exited", "none"),
        ("reloading", "reload", "none"),
        ("activating", "start", "none"),
        ("activating", "auto-restart", "start"),
        ("inactive", "dead", "start"),
        ("failed", "failed", "start"),
        ("deactivating", "stop-sigterm", "start"),
    ],
)
def test_a_unit_that_does_not_run_is_started(active: str, sub: str, action: str) -> None:
    desired = describe()
    observed = with_unit(as_described(desired), UNIT, running(active=active, sub=sub))
    assert plans.make_plan(desired, observed).action == action
    assert plans.make_plan(desired._replace(restart="defer"), observed).action == action


DIGEST = plans.restart_digest(describe())


@pytest.mark.parametrize(
    ("stamp", "changed_at", "need_reload", "due"),
    [
        # the stamp of this very process decides alone
        (Stamp(DIGEST, "inv-1"), BEFORE, False, False),
        (Stamp(DIGEST, "inv-1"), AFTER, True, False),
        (Stamp("other", "inv-1"), BEFORE, False, True),
        # a run died after its note that files are about to change
        (Stamp(DIGEST, "inv-1", pending=True), BEFORE, False, True),
        (Stamp(DIGEST, "inv-0", pending=True), BEFORE, False, True),
        # the process was started by somebody else since, or by boot: times decide
        (Stamp(DIGEST, "inv-0"), BEFORE, False, False),
        (Stamp("other", "inv-0"), BEFORE, False, False),
        (Stamp(DIGEST, "inv-0"), AFTER, False, True),
        (Stamp(DIGEST, "inv-0"), BEFORE, True, True),
        (None, BEFORE, False, False),
        (None, AFTER, False, True),
        (None, STARTED - 0.005, False, True),
        (None, BEFORE, True, True),
    ],
)
def test_a_running_unit_is_restarted_when_it_runs_something_else(
    stamp: Stamp | None, changed_at: float, need_reload: bool, due: bool
) -> None:
    desired = describe()
    observed = as_described(desired, stamp=stamp)
    observed = with_path(observed, CONF, on_disk(CONF_FILE, changed_at=changed_at))
    observed = with_unit(observed, UNIT, running(need_reload=need_reload))
    plan = plans.make_plan(desired, observed)
    assert plan.action == ("restart" if due else "none")
    assert bool(plan.reasons) == due
    assert plan.reload == need_reload
    deferred = plans.make_plan(desired._replace(restart="defer"), observed)
    assert deferred.action == "none"
    assert deferred.restart_due == due
    assert deferred.changed == need_reload
    never = plans.make_plan(desired._replace(restart="never"), observed)
    assert never.action == "none"
    assert not never.restart_due


def test_links_and_trees_count_as_what_a_process_was_started_with() -> None:
    link = LinkSpec("/opt/web/current", "v1")
    desired = describe(links=(link,), trees=(TREE,))
    for path in (link.path, TREE.link_path):
        observed = as_described(desired, stamp=None)
        observed = with_path(observed, path, observed.paths[path]._replace(changed_at=AFTER))
        assert plans.make_plan(desired, observed).reasons == (f"{path} changed after it was started",)


def test_what_others_write_counts_too() -> None:
    desired = describe(reads=("/pki/ca.crt",))
    authority = PathState("file", "root", 0, "root", 0, 0o644, content=b"old", changed_at=BEFORE)
    observed = with_path(as_described(desired), "/pki/ca.crt", authority)
    observed = observed._replace(stamp=Stamp(plans.restart_digest(desired, observed), "inv-1"))
    assert plans.make_plan(desired, observed).action == "none"
    # the process that runs was started with another content, whatever the times say
    other = with_path(observed, "/pki/ca.crt", authority._replace(content=b"new"))
    assert plans.make_plan(desired, other).reasons == ("it was started with other content",)
    deferred = plans.make_plan(desired._replace(restart="defer"), other)
    assert (deferred.action, deferred.restart_due, deferred.changed) == ("none", True, False)
    # a process that nobody knows anything about: times decide
    late = with_path(observed, "/pki/ca.crt", authority._replace(changed_at=AFTER))._replace(stamp=None)
    assert plans.make_plan(desired, late).reasons == ("/pki/ca.crt changed after it was started",)
    assert plans.make_plan(desired, observed._replace(stamp=None)).action == "none"


def test_the_digest_is_made_of_what_needs_a_restart() -> None:
    desired = describe(links=(LinkSpec("/l", "t"),), trees=(TREE,))
    digest = plans.restart_digest(desired)
    relevant = [
        describe(links=(LinkSpec("/l", "u"),), trees=(TREE,)),
        describe(links=(LinkSpec("/l", "t"),), trees=(TREE._replace(files={"x": b""}),)),
        describe(links=(LinkSpec("/l", "t"),), trees=(TREE,), files=(UNIT_FILE,)),
        describe(links=(LinkSpec("/l", "t"),), trees=(TREE,), files=(UNIT_FILE, CONF_FILE._replace(content=b""))),
    ]
    assert digest not in map(plans.restart_digest, relevant)
    same = desired._replace(
        files=(
            CONF_FILE._replace(mode=0o600, sensitive=True, validate="true %s"),
            FileSpec("/x", b"", restart=False),
            UNIT_FILE,
        ),
        enabled=False,
    )
    assert plans.restart_digest(same) == digest


@pytest.mark.parametrize("active", ["active", "activating"])
def test_a_unit_that_has_to_be_stopped(active: str) -> None:
    desired = describe(state="stopped", enabled=False, sockets=("web.socket",))
    observed = with_unit(as_described(desired), UNIT, running(active=active))
    plan = plans.make_plan(desired, observed)
    assert plan.action == "stop"
    assert plan.stop_sockets == ("web.socket",)
    assert plan.disable == ("web.socket", UNIT)
    assert plan.reasons == ()


def test_a_unit_that_is_stopped_is_left_alone() -> None:
    desired = describe(state="stopped", enabled=False)
    unit = running(active="inactive", sub="dead", file_state="disabled")
    observed = with_unit(as_described(desired), UNIT, unit)
    assert not plans.make_plan(desired, observed).changed


# --- sockets ------------------------------------------------------------------------------------------------------

SOCKET_FILE = FileSpec(
    "/etc/systemd/system/web.socket", b"[Socket]\nListenStream=80\n[Install]\nWantedBy=sockets.target\n"
)
WITH_SOCKET = describe(files=(UNIT_FILE, SOCKET_FILE), sockets=("web.socket",))


def test_a_socket_whose_file_changes_is_restarted_with_the_unit() -> None:
    observed = with_path(as_described(WITH_SOCKET), SOCKET_FILE.path, on_disk(SOCKET_FILE, content=b"[Socket]\n"))
    plan = plans.make_plan(WITH_SOCKET, observed)
    assert plan.restart_sockets == ("web.socket",)
    assert plan.action == "restart"


def test_a_socket_whose_file_changed_after_its_start_is_restarted_with_the_unit() -> None:
    observed = with_path(as_described(WITH_SOCKET), SOCKET_FILE.path, on_disk(SOCKET_FILE, changed_at=AFTER))
    plan = plans.make_plan(WITH_SOCKET, observed)
    assert plan.restart_sockets == ("web.socket",)
    assert plan.action == "restart"


def test_a_socket_that_is_down_needs_a_restart_of_the_running_unit() -> None:
    observed = with_unit(as_described(WITH_SOCKET), "web.socket", running(active="inactive", sub="dead"))
    plan = plans.make_plan(WITH_SOCKET, observed)
    assert plan.start_sockets == ("web.socket",)
    assert plan.action == "restart"
    plan = plans.make_plan(WITH_SOCKET._replace(restart="defer"), observed)
    assert plan.start_sockets == ()
    assert plan.restart_due


def test_a_socket_is_started_before_a_unit_that_is_down() -> None:
    down = running(active="inactive", sub="dead")
    observed = as_described(WITH_SOCKET, units={UNIT: down, "web.socket": down})
    plan = plans.make_plan(WITH_SOCKET, observed)
    assert plan.start_sockets == ("web.socket",)
    assert plan.action == "start"


DROP_IN = FileSpec("/etc/systemd/system/web.socket.d/more.conf", b"[Socket]\nListenStream=81\n")


def test_a_socket_whose_drop_in_comes_or_changes_is_restarted_with_the_unit() -> None:
    desired = describe(files=(UNIT_FILE, DROP_IN), sockets=("web.socket",))
    absent = with_path(as_described(desired), DROP_IN.path, PathState())
    changed = with_path(as_described(desired), DROP_IN.path, on_disk(DROP_IN, changed_at=AFTER))
    for observed in (absent, changed):
        plan = plans.make_plan(desired, observed)
        assert (plan.restart_sockets, plan.action) == (("web.socket",), "restart")
    assert not plans.make_plan(desired, as_described(desired)).changed


def test_a_socket_whose_drop_in_goes_is_restarted_even_by_the_run_after_a_killed_one() -> None:
    desired = describe(sockets=("web.socket",), absent=(DROP_IN.path,))
    plan = plans.make_plan(desired, with_path(as_described(desired), DROP_IN.path, on_disk(DROP_IN)))
    assert (plan.remove, plan.restart_sockets, plan.action) == ((DROP_IN.path,), ("web.socket",), "restart")
    killed = as_described(desired, stamp=Stamp("", "inv-1", pending=True))
    plan = plans.make_plan(desired, killed)
    assert (plan.remove, plan.restart_sockets, plan.action) == ((), ("web.socket",), "restart")
    assert not plans.make_plan(desired, as_described(desired)).changed


def test_drop_ins_of_other_units_are_none_of_a_sockets() -> None:
    folder = "/etc/systemd/system"
    for path in (f"{folder}/web.service.d/a.conf", "/etc/web.socket.d/a.conf", f"{folder}/web.socket.d/a"):
        assert not plans.is_drop_in(path, "web.socket")
