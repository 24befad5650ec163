# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleetctl against our API on a Unix socket, with a cluster that acts on what is written."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from api_server import Server
from memory_store import MACHINES, Behaviour, Cluster, MemoryStore

from flotilla_fleet import __version__, api
from flotilla_fleet.ctl import session as ctl_session
from flotilla_fleet.ctl import wait
from flotilla_fleet.ctl.client import Client
from flotilla_fleet.ctl.main import COMMANDS, main
from flotilla_fleet.model import Machine, UnitState

F1, F2, F3 = (machine.id for machine in MACHINES)

HELLO = "[Unit]\nDescription=Hello\n\n[Service]\nExecStart=/bin/sleep infinity\n"
WEB = "[Unit]\nDescription=Web %i\n[Service]\nExecStart=/bin/sleep infinity\n[X-Fleet]\nConflicts=web@*.service\n"
SLEEP = "[Service]\nExecStart=/bin/sleep infinity\n"
FILES = {
    "hello.service": HELLO,
    "web@.service": WEB,
    "side.service": SLEEP + "[X-Fleet]\nMachineOf=hello.service\n",
    "glob.service": SLEEP + "[X-Fleet]\nGlobal=true\nMachineMetadata=role=lab\n",
    "meta.service": SLEEP + "[X-Fleet]\nMachineMetadata=az=az2\n",
    "shortid.service": SLEEP + "[X-Fleet]\nMachineID=f3000000\n",
    "bogus.service": SLEEP + "[X-Fleet]\nBogus=1\n",
    "failing.service": "[Service]\nExecStart=/bin/false\n",
}


@dataclass
class Result:
    status: int
    out: str
    err: str


class Ctl:
    """Calls fleetctl in this process, in a folder with the unit files above."""

    def __init__(self, server: Server, store: MemoryStore, capfd: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.store = store
        self.cluster = Cluster(store)
        self._capfd = capfd

    def __call__(self, *words: str) -> Result:
        self._capfd.readouterr()
        status = main(["--endpoint", f"unix://{self.server.path}", *words])
        return Result(status, *self._capfd.readouterr())

    def ok(self, *words: str) -> str:
        result = self(*words)
        assert result.status == 0, result
        return result.out

    def settle(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 5
        while not self.server.run(condition):
            assert time.monotonic() < end, "the cluster did not get there"
            time.sleep(0.01)


@pytest.fixture
def ctl(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ctl]:
    for name in list(os.environ):
        if name.startswith("FLEETCTL_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "units"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(wait, "REASON_GRACE", 0.3)
    monkeypatch.setattr(wait, "ENDED_GRACE", 0.3)
    monkeypatch.setattr(wait, "LOOP_GRACE", 0.6)
    monkeypatch.setattr(ctl_session, "MACHINE_ID_FILE", str(tmp_path / "machine-id"))
    store = MemoryStore()
    with Server(store, tmp_path / "fleet.sock") as server:
        yield Ctl(server, store, capfd)


# -- the session recorded on upstream ------------------------------------------


def test_session(ctl: Ctl) -> None:
    """The commands of the recorded session in their order; tables are upstream's to the byte."""
    assert ctl.ok("list-machines") == (
        "MACHINE\t\tIP\t\tMETADATA\n"
        "f1000000...\t10.78.0.11\taz=az1,role=lab\n"
        "f2000000...\t10.78.0.12\taz=az2,role=lab\n"
        "f3000000...\t10.78.0.13\taz=az3,role=lab\n"
    )
    assert ctl.ok("list-machines", "--full", "--no-legend") == (
        f"{F1}\t10.78.0.11\taz=az1,role=lab\n{F2}\t10.78.0.12\taz=az2,role=lab\n{F3}\t10.78.0.13\taz=az3,role=lab\n"
    )
    long = (
        "MACHINE\t\t\t\t\tIP\t\tMETADATA\n"
        f"{F1}\t10.78.0.11\taz=az1,role=lab\n"
        f"{F2}\t10.78.0.12\taz=az2,role=lab\n"
        f"{F3}\t10.78.0.13\taz=az3,role=lab\n"
    )
    assert ctl.ok("list-machines", "--l") == long
    assert ctl.ok("list-machines", "-l") == long  # upstream's short flags do not work
    assert ctl.ok("list-units") == "UNIT\tMACHINE\tACTIVE\tSUB\n"
    assert ctl.ok("list-unit-files") == "UNIT\tHASH\tDSTATE\tSTATE\tTARGET\n"

    assert ctl.ok("submit", "hello.service") == "Unit hello.service inactive\n"
    assert ctl.ok("submit", "hello.service") == ""
    inactive = "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\nhello.service\t3585129\tinactive\tinactive\t-\n"
    assert ctl.ok("list-unit-files") == inactive
    assert ctl.ok("cat", "hello.service") == HELLO
    assert ctl("status", "hello.service") == Result(1, "", "Unit hello.service does not appear to be loaded.\n")
    assert ctl("stop", "hello.service") == Result(1, "", "Unable to stop unit hello.service in state inactive\n")
    assert ctl.ok("load", "hello.service") == "Unit hello.service loaded on f1000000.../10.78.0.11\n"
    assert ctl.ok("list-units") == (
        "UNIT\t\tMACHINE\t\t\tACTIVE\t\tSUB\nhello.service\tf1000000.../10.78.0.11\tinactive\tdead\n"
    )
    assert ctl.ok("start", "hello.service") == "Unit hello.service launched on f1000000.../10.78.0.11\n"
    assert ctl.ok("list-units") == (
        "UNIT\t\tMACHINE\t\t\tACTIVE\tSUB\nhello.service\tf1000000.../10.78.0.11\tactive\trunning\n"
    )
    assert ctl.ok("list-units", "--full", "--fields", "unit,load,active,sub,machine,hash") == (
        "UNIT\t\tLOAD\tACTIVE\tSUB\tMACHINE\t\t\t\t\t\tHASH\n"
        f"hello.service\tloaded\tactive\trunning\t{F1}/10.78.0.11\t3585129a937fa3d1ba1d97bf61790801d7efb4fd\n"
    )
    assert ctl.ok("list-unit-files", "--fields=unit,hash,dstate,state,target,global,desc") == (
        "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\t\t\tGLOBAL\tDESC\n"
        "hello.service\t3585129\tlaunched\tlaunched\tf1000000.../10.78.0.11\tfalse\tHello\n"
    )
    assert ctl("list-unit-files", "--fields", "unit,tmachine") == Result(
        0,
        "UNIT\t\tTMACHINE\nhello.service\tf1000000.../10.78.0.11\n",
        'WARNING: The "tmachine" field is deprecated. Use "target" instead\n',
    )
    assert ctl("start", "hello") == Result(0, "", "")
    assert ctl("stop", "hello.service") == Result(
        0,
        "Unit hello.service loaded on f1000000.../10.78.0.11\n",
        "Successfully stopped units [hello.service].\n",
    )
    # Upstream returns while systemd still runs the unit; here it has stopped.
    assert ctl.ok("list-units", "--no-legend", "--fields=active,sub") == "inactive\tdead\n"
    assert ctl("unload", "hello.service") == Result(
        0, "Unit hello.service inactive\n", "Successfully unloaded units [hello.service].\n"
    )
    assert ctl.ok("list-unit-files") == inactive
    assert ctl("start", "nope.service") == Result(
        1, "", "Error creating units: unable to find Unit(nope.service) in Registry or on filesystem\n"
    )
    assert ctl("destroy", "nope.service") == Result(0, "", "Units not found in registry\n")


def test_session_with_instances_and_globals(ctl: Ctl) -> None:
    ctl.cluster.behave = {
        "web@4.service": Behaviour(reason="every machine runs a unit it conflicts with"),
        "side.service": Behaviour(F1),
        "meta.service": Behaviour(F2),
        "shortid.service": Behaviour(F3),
        "bogus.service": Behaviour(F2),
        "failing.service": Behaviour(F3, active="failed", sub="failed"),
    }
    ctl.ok("submit", "hello.service")
    assert ctl.ok("submit", "web@.service") == "Unit web@.service inactive\n"
    assert sorted(ctl.ok("start", "web@1", "web@2", "web@3").splitlines()) == [
        "Unit web@1.service launched on f1000000.../10.78.0.11",
        "Unit web@2.service launched on f2000000.../10.78.0.12",
        "Unit web@3.service launched on f3000000.../10.78.0.13",
    ]
    # Upstream hangs here for ever.
    assert ctl("start", "web@4") == Result(
        1, "", "Unit web@4.service cannot be scheduled: every machine runs a unit it conflicts with\n"
    )
    assert ctl.ok("list-unit-files") == (
        "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\n"
        "hello.service\t3585129\tinactive\tinactive\t-\n"
        "web@.service\t6225faf\tinactive\tinactive\t-\n"
        "web@1.service\t6225faf\tlaunched\tlaunched\tf1000000.../10.78.0.11\n"
        "web@2.service\t6225faf\tlaunched\tlaunched\tf2000000.../10.78.0.12\n"
        "web@3.service\t6225faf\tlaunched\tlaunched\tf3000000.../10.78.0.13\n"
        "web@4.service\t6225faf\tlaunched\tinactive\t-\n"
    )
    assert ctl("start", "web@.service") == Result(
        1, "", 'Error starting units: cannot activate template "web@.service"\n'
    )
    assert sorted(ctl.ok("start", "hello.service", "side.service").splitlines()) == [
        "Unit hello.service launched on f1000000.../10.78.0.11",
        "Unit side.service launched on f1000000.../10.78.0.11",
    ]
    assert ctl.ok("start", "glob.service") == "Triggered global unit glob.service start\n"
    ctl.settle(lambda: (F3, "glob.service") in ctl.store.published)
    assert ctl.ok("list-units", "--no-legend") == (
        "glob.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "glob.service\tf2000000.../10.78.0.12\tactive\trunning\n"
        "glob.service\tf3000000.../10.78.0.13\tactive\trunning\n"
        "hello.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "side.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "web@1.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "web@2.service\tf2000000.../10.78.0.12\tactive\trunning\n"
        "web@3.service\tf3000000.../10.78.0.13\tactive\trunning\n"
        # Upstream has no row for what is on no machine.
        "web@4.service\t-\t\t\t-\t-\tevery machine runs a unit it conflicts with\n"
    )
    ctl.ok("unload", "web@4")  # and now all is as upstream's again
    assert ctl.ok("list-unit-files", "--no-legend") == (
        "glob.service\t3f7798c\tlaunched\t-\t\tglobal\n"
        "hello.service\t3585129\tlaunched\tlaunched\tf1000000.../10.78.0.11\n"
        "side.service\t38166ac\tlaunched\tlaunched\tf1000000.../10.78.0.11\n"
        "web@.service\t6225faf\tinactive\tinactive\t-\n"
        "web@1.service\t6225faf\tlaunched\tlaunched\tf1000000.../10.78.0.11\n"
        "web@2.service\t6225faf\tlaunched\tlaunched\tf2000000.../10.78.0.12\n"
        "web@3.service\t6225faf\tlaunched\tlaunched\tf3000000.../10.78.0.13\n"
        "web@4.service\t6225faf\tinactive\tinactive\t-\n"
    )
    assert sorted(ctl.ok("start", "meta.service", "shortid.service").splitlines()) == [
        "Unit meta.service launched on f2000000.../10.78.0.12",
        "Unit shortid.service launched on f3000000.../10.78.0.13",
    ]
    assert ctl("start", "--no-block", "bogus.service") == Result(
        0,
        "Triggered unit bogus.service start\n",
        'WARNING: Unit bogus.service: unrecognized requirement in [X-Fleet] section: "Bogus"\n',
    )
    assert ctl("start", "--block-attempts=3", "failing.service") == Result(
        1,
        "Unit failing.service launched on f3000000.../10.78.0.13\n",
        "Unit failing.service failed (failed/failed): see fleetctl journal failing.service\n",
    )
    assert ctl.ok("list-units") == (
        "UNIT\t\tMACHINE\t\t\tACTIVE\tSUB\n"
        "bogus.service\tf2000000.../10.78.0.12\tactive\trunning\n"
        "failing.service\tf3000000.../10.78.0.13\tfailed\tfailed\n"
        "glob.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "glob.service\tf2000000.../10.78.0.12\tactive\trunning\n"
        "glob.service\tf3000000.../10.78.0.13\tactive\trunning\n"
        "hello.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "meta.service\tf2000000.../10.78.0.12\tactive\trunning\n"
        "shortid.service\tf3000000.../10.78.0.13\tactive\trunning\n"
        "side.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "web@1.service\tf1000000.../10.78.0.11\tactive\trunning\n"
        "web@2.service\tf2000000.../10.78.0.12\tactive\trunning\n"
        "web@3.service\tf3000000.../10.78.0.13\tactive\trunning\n"
    )
    Path("hello.service").write_text(HELLO.replace("infinity", "9999"))
    warning = (
        "WARNING: Unit hello.service in registry differs from local unit file ./hello.service. "
        "Add --replace to override.\n"
    )
    assert ctl("start", "./hello.service") == Result(0, "", warning)
    assert ctl.ok("start", "--replace", "./hello.service") == (
        "Unit hello.service launched on f1000000.../10.78.0.11\n"
    )
    assert ctl.ok("cat", "hello.service") == HELLO.replace("infinity", "9999")
    Path("hello.service").write_text(HELLO)
    assert ctl("submit", "--replace", "./hello.service") == Result(
        0,
        "",
        "Warning: can not replace Unit(hello.service) in state 'launched', use the appropriate command\n",
    )
    assert ctl("restart", "hello.service") == Result(
        0, "Unit hello.service launched on f1000000.../10.78.0.11\n", "Unit hello.service was restarted.\n"
    )
    assert ctl("stop", "--no-block", "hello.service") == Result(
        0, "Triggered unit hello.service stop\n", "Successfully stopped units [hello.service].\n"
    )
    assert ctl("unload", "--no-block", "hello.service") == Result(
        0, "Triggered unit hello.service unload\n", "Successfully unloaded units [hello.service].\n"
    )
    names = ["web@1", "web@2", "web@3", "web@4", "web@.service", "side", "hello.service", "glob.service"]
    assert ctl.ok("destroy", *names).splitlines() == [
        f"Destroyed {name}" if name.endswith(".service") else f"Destroyed {name}.service" for name in names
    ]


@pytest.mark.parametrize(
    ("words", "out", "message"),
    [
        (["version"], f"fleetctl version {__version__}\n", ""),
        (["--version"], f"fleetctl version {__version__}\n", ""),
        (["vers"], f"fleetctl version {__version__}\n", ""),
        (["bogus-cmd"], "", 'Error: unknown command "bogus-cmd" for "fleetctl"\n'),
        (["verify", "a.service"], "", "Error: verify is gone, as units are not signed any more"),
        (["start"], "", "Error: No units given\n"),
        (["cat"], "", "Error: One unit file must be provided\n"),
        (["ssh"], "", "Error: one machine or unit must be provided\n"),
        (["journal"], "", "Error: One unit file must be provided.\n"),
        (["start", "--bogusflag", "x"], "", "Error: unknown flag --bogusflag\n"),
        (["list-machines", "-x"], "", "Error: unknown flag -x in -x\n"),
        (["start", "--block-attempts", "x", "y"], "", "Error: flag --block-attempts is 'x', not a whole number\n"),
        (["start", "y", "--block-attempts"], "", "Error: flag --block-attempts needs a value\n"),
        (["start", "--no-block=maybe", "y"], "", "Error: flag --no-block is 'maybe', not true or false\n"),
        (["--driver=etcd", "list-units"], "", "Error: --driver is 'etcd': only API is left"),
        (["list-machines", "--fields=machine,bogus"], "", 'Error: Invalid key in output format: "bogus"'),
        (["--endpoint=ftp://x", "list-units"], "", "Error: --endpoint is 'ftp://x', not unix:///PATH"),
        (["--endpoint=unix://", "list-units"], "", "Error: --endpoint is 'unix://', not unix:///PATH"),
        (["--endpoint=https://h:x", "list-units"], "", "Error: --endpoint is 'https://h:x', not unix:///PATH"),
        (["--cert-file=x", "list-units"], "", "Error: --cert-file and --key-file must be given together\n"),
    ],
)
def test_command_lines(ctl: Ctl, words: list[str], out: str, message: str) -> None:
    result = ctl(*words)
    assert result.status == (2 if message else 0)
    assert result.out == out
    assert result.err.startswith(message)
    if message:
        assert result.err.endswith("Run 'fleetctl --help' for usage.\n")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lis", ["list-announced", "list-machines", "list-unit-files", "list-units"]),
        ("list-u", ["list-unit-files", "list-units"]),
    ],
)
def test_ambiguous_commands(ctl: Ctl, word: str, meant: list[str]) -> None:
    result = ctl(word)
    assert result.status == 2
    suggestions = "".join(f"\t{name}\n" for name in meant)
    assert f"Did you mean this?\n{suggestions}\n" in result.err


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.hidden])
def test_help(ctl: Ctl, name: str) -> None:
    text = ctl.ok("help", name)
    assert f"Usage: fleetctl {name}" in text
    assert ctl.ok(name, "--help") == (text if name != "help" else ctl.ok("help"))
    assert f"  {name} " in ctl.ok("-h")
    for flag in COMMANDS[name].flags:
        assert flag.hidden or f"--{flag.name}" in text


# -- flags and environment -----------------------------------------------------


def test_flags_of_the_environment(ctl: Ctl, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FLEETCTL_ENDPOINT", f"unix://{ctl.server.path},http://never-asked")
    assert main(["list-machines", "--no-legend", "--fields", "ip"]) == 0
    assert capfd.readouterr().out == "10.78.0.11\n10.78.0.12\n10.78.0.13\n"
    monkeypatch.setenv("FLEETCTL_REQUEST_TIMEOUT", "soon")
    result = ctl("list-machines")
    assert (result.status, result.err.splitlines()[0]) == (
        2,
        "Error: environment variable FLEETCTL_REQUEST_TIMEOUT is 'soon', not a number",
    )
    assert ctl("--request-timeout=3", "list-machines").status == 0


def test_flags_may_follow_arguments_and_precede_the_command(ctl: Ctl) -> None:
    assert ctl.ok("submit", "hello.service", "--replace=false", "--debug=f") == "Unit hello.service inactive\n"
    assert ctl.ok("cat", "--", "hello") == HELLO
    result = ctl("--debug", "list-machines", "-l", "--no-legend")
    assert result.status == 0
    assert "DEBUG GET " in result.err


# -- where units come from -----------------------------------------------------


def test_an_instance_from_a_template_file_beside_the_path(ctl: Ctl, tmp_path: Path) -> None:
    assert ctl.ok("submit", str(tmp_path / "units" / "web@7")) == "Unit web@7.service inactive\n"
    assert ctl.ok("cat", "web@7") == ctl.store.units["web@7.service"].options[0].value.join(
        ["[Unit]\nDescription=", "\n\n[Service]\nExecStart=/bin/sleep infinity\n\n[X-Fleet]\nConflicts=web@*.service\n"]
    )


def test_the_template_in_the_registry_comes_before_the_file(ctl: Ctl) -> None:
    ctl.ok("submit", "web@.service")
    Path("web@.service").write_text(HELLO)
    ctl.ok("submit", "web@1")
    assert ctl.store.units["web@1.service"].options == ctl.store.units["web@.service"].options


def test_a_file_of_the_exact_name_comes_before_the_template(ctl: Ctl) -> None:
    ctl.ok("submit", "web@.service")
    Path("web@1.service").write_text(HELLO)
    ctl.ok("submit", "web@1.service")
    assert ctl.ok("cat", "web@1") == HELLO


def test_all_files_are_checked_before_anything_is_written(ctl: Ctl) -> None:
    Path("bad.service").write_text("[Service]\nExecStart\n")
    result = ctl("start", "hello.service", "bad.service")
    assert result == Result(
        1,
        "",
        'Error creating units: bad.service: line 2: "ExecStart" is neither a section, a comment nor a '
        "name=value pair\n",
    )
    assert ctl.store.units == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a%.service", HELLO, "a%.service: invalid character '%' in unit name"),
        ("a.snapshot", HELLO, 'a.snapshot: unit type "snapshot" no longer exists in systemd'),
        ("empty.service", "# nothing\n", "empty.service has no options"),
        ("long.service", "[Service]\nExecStart=" + "x" * 3000, "long.service: line 2: line too long (max 2048 bytes)"),
        (
            "x.service",
            "[X-Fleet]\nGlobal=true\nMachineOf=a.service\n",
            "x.service: Global cannot be used with Peers",
        ),
        ("folder.service", None, "cannot read folder.service: Is a directory"),
    ],
)
def test_files_that_cannot_be_used(ctl: Ctl, name: str, content: str | None, message: str) -> None:
    if content is None:
        Path(name).mkdir()
    else:
        Path(name).write_text(content)
    result = ctl("submit", name)
    assert result.status == 1
    assert result.err.startswith(f"Error creating units: {message}")
    assert ctl.store.units == {}


def test_replacing_a_template_warns_instances_of_the_difference(ctl: Ctl) -> None:
    ctl.ok("submit", "web@.service", "web@1.service")
    Path("web@.service").write_text(WEB.replace("infinity", "1"))
    result = ctl("submit", "web@1.service")
    assert "Unit web@1.service in registry differs from local unit file web@.service." in result.err
    ctl.ok("submit", "--replace", "web@1.service")
    assert ctl.store.units["web@1.service"].options[1].value == "/bin/sleep 1"


def test_many_units_are_read_in_one_list(ctl: Ctl) -> None:
    ctl.ok("submit", "web@.service")
    reads = ctl.store.reads
    ctl.ok("start", *[f"web@{number}" for number in range(20)])
    lists = ctl.store.reads - reads - 20 * 2  # what a PUT costs
    assert lists < 20  # each read alone would be two for every event
    assert len(ctl.ok("list-units", "--no-legend").splitlines()) == 20
    assert ctl.ok("unload", *[f"web@{number}" for number in range(20)]).count("inactive\n") == 20


# -- waiting -------------------------------------------------------------------


def test_start_is_told_by_events_and_does_not_poll(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(delay=1.2)
    reads = ctl.store.reads
    ctl.ok("start", "hello.service")
    assert ctl.store.reads - reads <= 12  # at four a second, two each, polling would need more than that


def test_start_polls_a_server_without_events(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "events", lambda self: None)
    assert ctl.ok("start", "hello.service") == "Unit hello.service launched on f1000000.../10.78.0.11\n"


def test_start_goes_on_when_the_stream_is_lost(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(delay=0.8)
    timer = threading.Timer(0.3, lambda: ctl.server.run(ctl.store.break_streams))
    timer.start()
    started = time.monotonic()
    assert ctl.ok("start", "hello.service") == "Unit hello.service launched on f1000000.../10.78.0.11\n"
    assert time.monotonic() - started < 3
    timer.join()


def test_a_reason_that_goes_away_is_waited_for(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "REASON_GRACE", 2.0)
    ctl.cluster.behave["hello.service"] = Behaviour(reason="no machine is free", delay=0)

    def cure() -> None:
        ctl.cluster.behave["hello.service"] = Behaviour()
        ctl.cluster._act("hello.service")

    timer = threading.Timer(0.6, lambda: ctl.server.run(cure))
    timer.start()
    assert ctl.ok("start", "hello.service") == "Unit hello.service launched on f1000000.../10.78.0.11\n"
    timer.join()


def test_block_attempts_bounds_the_wait_for_a_place(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "ROUND", 0.5)
    ctl.cluster.behave["hello.service"] = Behaviour(reason="no machine is free")
    started = time.monotonic()
    result = ctl("start", "--block-attempts=2", "hello.service")
    assert 1.0 <= time.monotonic() - started < 2.5
    assert result == Result(1, "", "Unit hello.service cannot be scheduled: no machine is free\n")


def test_a_global_unit_that_fits_nowhere_ends_with_the_reason(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "SOMEWHERE_GRACE", 0.3)
    reason = "none of 3 machines fits: 3 lacks metadata role=lab"
    ctl.cluster.behave["glob.service"] = Behaviour(reason=reason)
    triggered = "Triggered global unit glob.service start\n"
    assert ctl("start", "glob.service") == Result(1, triggered, f"Unit glob.service cannot be scheduled: {reason}\n")
    ctl.ok("unload", "glob.service")
    assert ctl("start", "--no-block", "glob.service") == Result(0, triggered, "")


def test_a_global_unit_of_which_nobody_decides_is_not_waited_for(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "SOMEWHERE_GRACE", 0.3)
    ctl.store.watchers = lambda event: None
    assert ctl("start", "glob.service") == Result(0, "Triggered global unit glob.service start\n", "")


def test_block_attempts_bounds_the_wait_for_an_engine(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "ROUND", 0.1)
    ctl.store.watchers = lambda event: None
    result = ctl("start", "--block-attempts=3", "hello.service")
    assert result == Result(
        1, "", "Gave up on unit hello.service after 3 rounds of 0.1 s: unit hello.service has no machine yet\n"
    )


def test_a_long_wait_tells_what_for(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "NOTICE", 0.2)
    ctl.cluster.behave["hello.service"] = Behaviour(delay=1.0)
    result = ctl("start", "hello.service")
    assert result.status == 0
    assert "still waiting: unit hello.service has no machine yet\n" in result.err


def test_a_unit_that_systemd_restarts_again_and_again(ctl: Ctl) -> None:
    ctl.cluster.behave["failing.service"] = Behaviour(active="activating", sub="auto-restart")
    result = ctl("start", "failing.service")
    assert result.status == 1
    assert "Unit failing.service fails again and again (activating/auto-restart): see fleetctl" in result.err


def test_a_unit_that_runs_to_its_end(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(active="inactive", sub="dead")
    assert ctl("start", "hello.service") == Result(
        0,
        "Unit hello.service launched on f1000000.../10.78.0.11\n",
        "Unit hello.service ran to its end and is inactive now\n",
    )


def test_starting_what_is_started_tells_of_failure(ctl: Ctl) -> None:
    ctl.cluster.behave["failing.service"] = Behaviour(active="failed", sub="failed")
    assert ctl("start", "failing.service").status == 1
    assert ctl("start", "failing.service").status == 1


def test_new_content_is_waited_for(ctl: Ctl) -> None:
    ctl.ok("start", "hello.service")
    ctl.cluster.behave["hello.service"] = Behaviour(delay=0.5)
    Path("hello.service").write_text(HELLO.replace("infinity", "1"))
    ctl.ok("start", "--replace", "hello.service")
    assert ctl.store.published[F1, "hello.service"].hash == ctl.store.units["hello.service"].hash


def test_a_unit_destroyed_while_it_is_waited_for(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(delay=60)
    timer = threading.Timer(0.3, lambda: ctl.server.call("DELETE", "/fleet/v1/units/hello.service"))
    timer.start()
    result = ctl("start", "hello.service")
    timer.join()
    assert result == Result(1, "", "Unit hello.service was destroyed by somebody else\n")


def test_unload_waits_until_the_unit_has_stopped(ctl: Ctl) -> None:
    ctl.ok("start", "hello.service")
    ctl.cluster.behave["hello.service"] = Behaviour(delay=0.5)
    ctl.ok("unload", "hello.service")
    assert ctl.ok("list-units", "--no-legend") == ""


def test_stop_of_a_unit_that_has_no_machine(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(reason="no machine is free")
    ctl("start", "hello.service")
    assert ctl("stop", "hello.service") == Result(0, "", "Successfully stopped units [hello.service].\n")
    assert ctl.store.units["hello.service"].desired == "loaded"


def test_stop_and_unload_of_globals_do_not_wait(ctl: Ctl) -> None:
    ctl.ok("start", "glob.service")
    assert ctl("stop", "glob").out == "Triggered global unit glob.service stop\n"
    assert ctl("unload", "glob").out == "Triggered global unit glob.service unload\n"
    assert ctl.store.units["glob.service"].desired == "inactive"


def test_stop_of_what_is_not_there_stops_nothing(ctl: Ctl) -> None:
    ctl.ok("start", "hello.service")
    assert ctl("stop", "hello", "nope") == Result(1, "", "Unit nope.service does not exist\n")
    assert ctl.store.units["hello.service"].desired == "launched"


def test_restart_of_what_is_not_started(ctl: Ctl) -> None:
    ctl.ok("submit", "hello.service")
    result = ctl("restart", "hello")
    assert result.status == 1
    assert result.err.startswith("Unable to restart unit hello.service in state inactive: it is not started")


def test_destroy_of_some(ctl: Ctl) -> None:
    ctl.ok("submit", "hello.service")
    assert ctl("destroy", "hello", "nope") == Result(
        0, "Destroyed hello.service\n", "Unit nope.service not found in registry\n"
    )


def test_destroy_waits_when_asked(ctl: Ctl) -> None:
    ctl.ok("start", "hello.service")
    ctl.cluster.behave["hello.service"] = Behaviour(delay=0.5)
    ctl.ok("destroy", "--block-attempts=3", "hello.service")
    assert ctl.store.published == {}


# -- tables --------------------------------------------------------------------


def test_cells_cannot_move_the_cursor(ctl: Ctl) -> None:
    Path("evil.service").write_text("[Unit]\nDescription=a\x1b[2Jb\tc\n[Service]\nExecStart=/bin/true\n")
    ctl.ok("submit", "evil.service")
    assert ctl.ok("list-unit-files", "--fields=desc", "--no-legend") == "a?[2Jb?c\n"


def test_the_reason_is_a_column(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(reason="no machine has disk=ssd")
    ctl("start", "hello.service")
    assert ctl.ok("list-unit-files", "--fields=unit,reason") == (
        "UNIT\t\tREASON\nhello.service\tno machine has disk=ssd\n"
    )


def test_lists_of_more_than_a_page(ctl: Ctl) -> None:
    ctl.ok("submit", "web@.service")
    for number in range(120):
        ctl.server.put(f"web@{number:03}.service", options=[{"section": "S", "name": "N", "value": "v"}])
    assert len(ctl.ok("list-unit-files", "--no-legend").splitlines()) == 121


def test_machines_without_address_or_metadata(ctl: Ctl) -> None:
    ctl.store.present["ab"] = Machine("ab")
    assert ctl.ok("list-machines", "--no-legend").splitlines()[0] == "ab\t\t-\t\t-"


def test_output_to_a_reader_that_had_enough(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(text: str) -> int:
        raise BrokenPipeError

    saved = os.dup(1)
    try:
        monkeypatch.setattr("sys.stdout.write", broken)
        assert main(["--endpoint", f"unix://{ctl.server.path}", "list-machines"]) == 1
    finally:
        os.dup2(saved, 1)
        os.close(saved)


# -- when there is no answer ---------------------------------------------------


def test_no_socket(ctl: Ctl) -> None:
    result = ctl("--endpoint=unix:///nonexistent/fleet.sock", "list-units")
    assert result.status == 1
    assert result.err.startswith("no fleetd here, as there is no socket /nonexistent/fleet.sock: start it")
    assert result.err.count("\n") == 1


def test_nobody_listens(ctl: Ctl, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "dead.sock"))
    result = ctl(f"--endpoint=unix://{tmp_path}/dead.sock", "list-units")
    assert (result.status, result.err) == (
        1,
        f"nothing listens on {tmp_path}/dead.sock: is fleetd running (systemctl status fleet)?\n",
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_no_permission(ctl: Ctl, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.chmod(ctl.server.path, stat.S_IRUSR | stat.S_IWUSR)
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        os.setuid(65534)
        os._exit(main(["--endpoint", f"unix://{ctl.server.path}", "list-units"]))
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    err = capfd.readouterr().err
    assert "member of the group fleet (usermod -aG fleet USER, then log in again)" in err
    assert err.count("\n") == 1


def test_fleetd_without_etcd(ctl: Ctl) -> None:
    ctl.store.outage = "etcd did not answer within 5 s"
    result = ctl("list-units")
    assert result == Result(1, "", "fleetd cannot do this now: etcd did not answer within 5 s\n")


def test_a_server_that_says_nothing(ctl: Ctl, tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "mute.sock"))
        sock.listen()
        result = ctl(f"--endpoint=unix://{tmp_path}/mute.sock", "--request-timeout=0.2", "list-units")
    assert result == Result(1, "", f"fleetd at {tmp_path}/mute.sock did not answer within 0.2 s (--request-timeout)\n")


def test_a_host_that_does_not_exist(ctl: Ctl) -> None:
    result = ctl("--endpoint=http://nowhere.invalid:1", "list-units")
    assert result.status == 1
    assert result.err.startswith("cannot find the host nowhere.invalid of --endpoint http://nowhere.invalid:1: ")


# -- on machines ---------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ssh, systemctl and journalctl that tell how they are called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("ssh", "systemctl", "journalctl", "sudo"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name}" "$@"\nexit ${{FAKE_STATUS:-0}}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server knows as little of asking machines as upstream's: its answer to such paths is recorded so."""

    async def unknown(*_arguments: object) -> None:
        raise api.ApiError(404)

    monkeypatch.setattr(api.Api, "_ask", unknown)


def test_status_through_ssh(ctl: Ctl, programs: Path, upstream: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ctl.ok("start", "hello.service")
    monkeypatch.setenv("FAKE_STATUS", "3")
    result = ctl("status", "--ssh-port=2222", "hello")
    assert result.status == 3
    assert result.out.splitlines() == [
        *["ssh", "-o", "ConnectTimeout=10", "-p", "2222", "--", "10.78.0.11"],
        "systemctl status --no-pager -l -- hello.service",
    ]


def test_flags_of_ssh(ctl: Ctl, upstream: None, programs: Path) -> None:
    ctl.ok("start", "hello.service")
    flags = ["--ssh-username=core", "--ssh-timeout=3", "--strict-host-key-checking=false", "--known-hosts-file=/k"]
    assert ctl.ok(*flags, "journal", "-f", "--lines", "3", "--output=cat", "--sudo", "hello").splitlines() == [
        *["ssh", "-o", "ConnectTimeout=3", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/k"],
        *["-l", "core", "--", "10.78.0.11"],
        "sudo journalctl --unit hello.service --no-pager -n 3 -o cat -f",
    ]


def test_on_this_machine_nothing_goes_over_ssh(ctl: Ctl, upstream: None, programs: Path, tmp_path: Path) -> None:
    ctl.ok("start", "hello.service")
    (tmp_path / "machine-id").write_text(F1 + "\n")
    assert ctl.ok("journal", "hello").splitlines() == [
        *["journalctl", "--unit", "hello.service", "--no-pager", "-n", "10", "-o", "short"]
    ]
    assert ctl.ok("ssh", "hello", "echo", "$((1 + 1))") == "2\n"


def test_global_units_on_all_machines_in_turn_or_on_one(
    ctl: Ctl, upstream: None, programs: Path, tmp_path: Path
) -> None:
    ctl.ok("start", "glob.service")
    ctl.settle(lambda: (F3, "glob.service") in ctl.store.published)
    (tmp_path / "machine-id").write_text(F2 + "\n")
    result = ctl("status", "glob")
    assert result.err == (
        "==> glob.service on f1000000.../10.78.0.11\n"
        "==> glob.service on f2000000.../10.78.0.12\n"
        "==> glob.service on f3000000.../10.78.0.13\n"
    )
    assert result.out.splitlines().count("ssh") == 2
    assert "10.78.0.13" in ctl.ok("status", "glob.service@f3")
    assert "10.78.0.13" in ctl.ok("journal", "glob.service@10.78.0.13")
    assert ctl("status", "glob.service@f9").err == "There is no machine f9: see fleetctl list-machines\n"
    assert ctl("status", "glob.service@f").err.startswith("More than one machine has an id that begins with f: ")
    assert ctl("journal", "-f", "glob").err == (
        "Unit glob.service is on 3 machines, follow one of them: "
        "glob.service@f1000000, glob.service@f2000000, glob.service@f3000000\n"
    )
    assert ctl.ok("restart", "glob").count("systemctl") == 3
    assert ctl("restart", "glob.service@f3").out.splitlines()[-1] == "systemctl restart -- glob.service"
    ctl.ok("start", "hello.service")
    assert ctl("status", "hello.service@f3").err == f"Unit hello.service is not on machine {F3}.\n"


def test_ssh_to_machines_and_units(ctl: Ctl, programs: Path) -> None:
    ctl.ok("start", "hello.service")
    base = ["ssh", "-o", "ConnectTimeout=10"]
    assert ctl.ok("ssh", "f2").splitlines() == [*base, "--", "10.78.0.12"]
    assert ctl.ok("ssh", "-A", "10.78.0.13", "ls", "-la").splitlines() == [*base, "-A", "--", "10.78.0.13", "ls", "-la"]
    assert ctl.ok("ssh", "hello", "--", "uptime").splitlines() == [*base, "--", "10.78.0.11", "--", "uptime"]
    assert ctl.ok("ssh", "--unit=hello", "uptime").splitlines() == [*base, "--", "10.78.0.11", "uptime"]
    assert ctl.ok("ssh", "--machine=f3", "uptime").splitlines() == [*base, "--", "10.78.0.13", "uptime"]
    assert ctl("ssh", "nope").err == "Unable to proceed: could not find matching unit or machine\n"
    assert ctl("ssh", "--machine=f9").err == "There is no machine f9: see fleetctl list-machines\n"
    assert ctl("ssh", "--machine=f3", "--unit=hello").status == 2
    ctl.server.put("f3.service", options=[{"section": "S", "name": "N", "value": "v"}])
    assert ctl("ssh", "f3").err == "f3 is a machine and a unit, say which with --machine or --unit\n"


def test_other_machines_through_a_tunnel(ctl: Ctl, tmp_path: Path, programs: Path) -> None:
    """The fake ssh makes the socket that is asked for lead to the server."""
    (programs / "ssh").write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" ssh "$@" >> {tmp_path}/calls\n'
        'while [ $# -gt 0 ]; do [ "$1" = -L ] && link="${2%%:*}"; shift; done\n'
        f'[ -z "$link" ] || {{ ln -s {ctl.server.path} "$link"; exec sleep 60; }}\n'
    )
    ctl.ok("start", "hello.service")
    flags = ["--tunnel=gate:2222", "--ssh-username=core", "--endpoint=unix:///run/far.sock"]
    assert ctl(*flags, "list-machines").out.count("10.78.0.1") == 3
    call = (tmp_path / "calls").read_text().splitlines()
    assert call[-4:] == ["-p", "2222", "--", "gate"]
    assert call[call.index("-L") + 1].endswith("/socket:/run/far.sock")
    assert not Path(call[call.index("-L") + 1].partition(":")[0]).parent.exists()
    assert ctl(*flags, "ssh", "f3", "uptime").status == 0
    assert (tmp_path / "calls").read_text().splitlines()[-5:] == [
        *["-J", "core@gate:2222", "--", "10.78.0.13", "uptime"]
    ]


def test_a_tunnel_that_cannot_be_opened(ctl: Ctl, programs: Path) -> None:
    (programs / "ssh").write_text("#!/bin/sh\nexit 255\n")
    result = ctl("--tunnel=gate", "list-machines")
    assert (result.status, result.err) == (1, "cannot open a tunnel to gate: ssh ended with status 255\n")


def test_without_ssh(ctl: Ctl, upstream: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ctl.ok("start", "hello.service")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert ctl("status", "hello").err == "cannot run ssh: there is no such program on this machine\n"


def test_places_that_are_gone(ctl: Ctl, upstream: None) -> None:
    ctl.ok("start", "hello.service")
    ctl.store.present[F1] = Machine(F1)
    assert ctl("status", "hello").err.startswith(f"Machine {F1} has no address that fleet knows")
    del ctl.store.present[F1]
    assert ctl("status", "hello").err == (f"Machine {F1}, which unit hello.service is on, is not present any more\n")
    assert ctl("status", "nope").err == "Unit nope.service does not exist.\n"


def test_status_of_an_unplaced_unit_tells_why(ctl: Ctl) -> None:
    ctl.cluster.behave["hello.service"] = Behaviour(reason="no machine has disk=ssd")
    ctl("start", "hello.service")
    assert ctl("status", "hello") == Result(
        1, "", "Unit hello.service does not appear to be loaded: no machine has disk=ssd\n"
    )


# -- deciding ------------------------------------------------------------------


def _state(active: str, sub: str = "x", digest: str = "h", machine: str = "m") -> dict[str, str]:
    return {"machineID": machine, "systemdActiveState": active, "systemdSubState": sub, "hash": digest}


@pytest.mark.parametrize(
    ("goal", "unit", "states", "kind"),
    [
        ("launched", {"currentState": "launched", "machineID": "m"}, [_state("active")], "done"),
        ("launched", {"currentState": "launched", "machineID": "m"}, [_state("active", digest="o")], "waiting"),
        ("launched", {"currentState": "launched", "machineID": "m"}, [_state("active", machine="n")], "waiting"),
        ("launched", {"currentState": "loaded", "machineID": "m"}, [_state("active")], "waiting"),
        ("launched", {"currentState": "launched", "machineID": "m"}, [], "waiting"),
        ("launched", {"currentState": "launched", "machineID": "m"}, [_state("activating")], "waiting"),
        ("launched", {"currentState": "launched", "machineID": "m"}, [_state("failed")], "failed"),
        ("launched", {}, [], "waiting"),
        ("launched", {"reason": "r"}, [], "unplaced"),
        ("launched", None, [], "failed"),
        ("loaded", {"currentState": "loaded", "machineID": "m"}, [_state("inactive")], "done"),
        ("loaded", {"currentState": "loaded", "machineID": "m"}, [_state("failed")], "done"),
        ("loaded", {"currentState": "loaded", "machineID": "m"}, [_state("deactivating")], "waiting"),
        ("loaded", {"currentState": "loaded", "machineID": "m"}, [_state("inactive", digest="o")], "waiting"),
        ("loaded", {"currentState": "launched", "machineID": "m"}, [_state("inactive")], "waiting"),
        (wait.SOMEWHERE, {}, [_state("activating")], "done"),
        (wait.SOMEWHERE, {"reason": "r"}, [], "failed"),
        (wait.SOMEWHERE, {}, [], "ended"),
        ("inactive", {"currentState": "inactive"}, [], "done"),
        ("inactive", {"currentState": "inactive"}, [_state("active")], "waiting"),
        ("inactive", {"currentState": "loaded"}, [], "waiting"),
        ("inactive", None, [], "done"),
        ("inactive", None, [_state("active")], "waiting"),
    ],
)
def test_progress(goal: str, unit: dict[str, str] | None, states: list[dict[str, str]], kind: str) -> None:
    assert wait.progress(wait.Goal("a.service", goal, "h"), unit, states).kind == kind


def test_states_of_the_store_are_what_progress_reads(ctl: Ctl) -> None:
    """The names of the fields, so that the table above cannot be about others than the API's."""
    ctl.ok("start", "hello.service")
    state: UnitState = ctl.store.published[F1, "hello.service"]
    shown = ctl.server.get("state/hello.service").json
    assert set(_state("active")) <= set(shown)
    assert shown["hash"] == state.hash
