# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fleetctl has beyond upstream's: machines, questions to them, prefixes, JSON, watching, completion, help."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from api_server import Server
from memory_store import MACHINES, MemoryStore

from flotilla_fleet import question
from flotilla_fleet.ctl import client as ctl_client
from flotilla_fleet.ctl import machines, show, wait, watch
from flotilla_fleet.ctl import session as ctl_session
from flotilla_fleet.ctl.commands import COMMANDS
from flotilla_fleet.ctl.complete import offer
from flotilla_fleet.ctl.help import command_help, reference
from flotilla_fleet.ctl.main import main, read_words
from flotilla_fleet.model import Target, Unit, UnitState
from flotilla_fleet.question import Answer, Question
from flotilla_fleet.scheduler import Move
from flotilla_fleet.unitfile import UnitOption

F1, F2, F3 = (machine.id for machine in MACHINES)
ROOT = Path(__file__).resolve().parents[2]
FLEET = ROOT / "fleet"
PLAIN = (UnitOption("Unit", "Description", "Näme"), UnitOption("Service", "ExecStart", "/bin/true"))
GLOBAL = (*PLAIN, UnitOption("X-Fleet", "Global", "true"))


def running(name: str, machine: str, unit: Unit) -> UnitState:
    return UnitState(name, machine, unit.hash, "loaded", "active", "running", "launched")


@pytest.fixture
def store() -> MemoryStore:
    """u.service and up.service run on the second machine, g.service on all; lost.service has no place."""
    made = MemoryStore()
    units = [Unit(name, PLAIN, "launched") for name in ("u.service", "up.service", "lost.service")]
    units += [Unit("g.service", GLOBAL, "launched"), Unit("idle.service", PLAIN), Unit("web@.service", PLAIN)]
    made.units = {unit.name: unit for unit in units}
    made.targets = {
        "u.service": Target(F2),
        "up.service": Target(F2),
        "lost.service": Target("", "no machine has disk=ssd"),
    }
    for name, machine in [("u.service", F2), ("up.service", F2), *(("g.service", m) for m in (F1, F2, F3))]:
        made.published[machine, name] = running(name, machine, made.units[name])
    return made


class Ctl:
    def __init__(self, server: Server, store: MemoryStore, capfd: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.store = store
        self._capfd = capfd

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._capfd.readouterr()
        status = main(["--endpoint", f"unix://{self.server.path}", *words])
        return status, *self._capfd.readouterr()

    def ok(self, *words: str) -> str:
        status, out, err = self(*words)
        assert status == 0, (status, out, err)
        return out

    def later(self, seconds: float, function: Callable[[], object]) -> threading.Timer:
        timer = threading.Timer(seconds, lambda: self.server.run(function))
        timer.start()
        return timer

    @contextlib.contextmanager
    def process(self, *words: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "flotilla_fleet.ctl.main", f"--endpoint=unix://{self.server.path}", *words]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        defaults = {"cwd": FLEET, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, **{**defaults, **options}) as process, killed(process):  # type: ignore[call-overload]
            yield process


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Background jobs of a shell, such as CI, are deaf to Ctrl-C, and so is what they start; these must hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def ctl(
    store: MemoryStore, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Ctl]:
    for name in [name for name in os.environ if name.startswith("FLEETCTL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ctl_session, "MACHINE_ID_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(wait, "REASON_GRACE", 0.3)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")  # neither ssh nor systemctl
    with Server(store, tmp_path / "s") as server:
        yield Ctl(server, store, capfd)


@contextlib.contextmanager
def killed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leaves no process behind when a test fails."""
    try:
        yield
    finally:
        process.kill()


# -- drain ---------------------------------------------------------------------


def test_drain_waits_until_nothing_is_left_and_tells_what_has_no_other_place(ctl: Ctl) -> None:
    store = ctl.store

    def leave() -> None:
        store.place("u.service", F1)
        store.place("up.service", "", "none of 3 machines fits")
        for name in ("u.service", "up.service", "g.service"):
            store.forget(name, F2)

    timer = ctl.later(0.5, leave)
    started = time.monotonic()
    status, out, err = ctl("drain", "f2")
    timer.join()
    assert 0.5 <= time.monotonic() - started < 4
    assert (status, out) == (0, "Machine f2000000.../10.78.0.12 is drained\n")
    assert err == (
        "Machine f2000000.../10.78.0.12: 3 units left: g.service, u.service, up.service\n"
        "Unit up.service has no other place: none of 3 machines fits\n"
    )
    assert store.present[F2].draining
    assert ctl.ok("list-machines", "--fields=ip,state", "--no-legend") == (
        "10.78.0.11\tready\n10.78.0.12\tdraining\n10.78.0.13\tready\n"
    )
    assert ctl.ok("undrain", "f2") == "Machine f2000000.../10.78.0.12 is used again\n"
    assert not store.present[F2].draining


def test_drain_without_waiting_and_with_an_end(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ctl.ok("drain", "--no-block", "f2", "10.78.0.13", "f2") == (
        "Triggered drain of machine f2000000.../10.78.0.12\nTriggered drain of machine f3000000.../10.78.0.13\n"
    )
    monkeypatch.setattr(wait, "ROUND", 0.2)
    status, out, err = ctl("drain", "--block-attempts=2", "f3")
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == "Gave up on machine f3000000.../10.78.0.13: 1 unit left: g.service"


def test_undrain_of_a_machine_that_is_switched_off(ctl: Ctl) -> None:
    gone = "a" * 32
    assert ctl.ok("undrain", gone) == "Machine aaaaaaaa... is used again\n"
    assert ctl("undrain", "aaaa") == (1, "", "There is no machine aaaa: see fleetctl list-machines\n")


@pytest.mark.parametrize("command", ["drain", "undrain", "metadata"])
def test_machines_that_are_not_there(ctl: Ctl, command: str) -> None:
    assert ctl(command, "f9") == (1, "", "There is no machine f9: see fleetctl list-machines\n")
    status, _out, err = ctl(command, "f")
    assert (status, err) == (1, f"More than one machine has an id that begins with f: {F1}, {F2}, {F3}\n")
    assert ctl(command)[0] == 2


def test_the_names_that_are_left_are_not_too_many() -> None:
    assert machines.left_text(["a"]) == "1 unit left: a"
    assert machines.left_text(list("abcdefg")) == "7 units left: a, b, c, d, e and 2 more"


# -- metadata ------------------------------------------------------------------


def test_metadata_is_shown_and_changed(ctl: Ctl) -> None:
    assert ctl.ok("metadata", "f1") == "az=az1,role=lab\n"
    assert ctl.ok("metadata", "f1", "disk=ssd=fast", "role=") == "az=az1,disk=ssd=fast\n"
    assert ctl.store.dynamic == {(F1, "disk"): "ssd=fast", (F1, "role"): ""}
    for word in ("disk", "=x", "a b=c", "a/b=c"):
        status, _out, err = ctl("metadata", "f1", word)
        assert status == 2
        assert "is not KEY=VALUE" in err
    assert len(ctl.store.dynamic) == 2


# -- rebalance -----------------------------------------------------------------


def test_rebalance_shows_and_then_does(ctl: Ctl) -> None:
    ctl.store.moves = (Move("u.service", F2, F1), Move("up.service", F2, F3))
    table = (
        "UNIT\t\tFROM\t\t\tTO\n"
        "u.service\tf2000000.../10.78.0.12\tf1000000.../10.78.0.11\n"
        "up.service\tf2000000.../10.78.0.12\tf3000000.../10.78.0.13\n"
    )
    assert ctl("rebalance") == (0, table, "Nothing was changed; add --apply to make these moves.\n")
    assert ctl.store.requested == []
    shown = json.loads(ctl.ok("rebalance", "--format=json", "--most=1"))
    assert shown == [{"unit": "u.service", "from": F2, "to": F1}]
    status, out, err = ctl("rebalance", "--apply", "--no-block", "--most=1", "--no-legend")
    assert (status, out) == (0, "u.service\tf2000000.../10.78.0.12\tf1000000.../10.78.0.11\n")
    assert err == "Asked for 1 move; see fleetctl list-units --watch\n"
    assert ctl.store.requested == [ctl.store.moves[0]]
    ctl.store.moves = ()
    assert ctl("rebalance") == (0, "", "No move would even out the machines.\n")
    assert ctl.ok("rebalance", "--format=json") == "[]\n"
    assert ctl("rebalance", "--most=0")[::2] == (1, 'most is "0", allowed are 1 to 1000\n')


def test_rebalance_waits_until_all_have_arrived(ctl: Ctl) -> None:
    store = ctl.store
    store.moves = (Move("u.service", F2, F1), Move("up.service", F2, F3))

    def arrive() -> None:
        store.forget("u.service", F2)
        store.place("u.service", F1)
        store.publish(running("u.service", F1, store.units["u.service"]))
        # the machine it was to go to has died meanwhile
        store.forget("up.service", F2)
        store.place("up.service", "", "none of 2 machines fits")
        store.place("up.service", F1)
        store.publish(running("up.service", F1, store.units["up.service"]))

    timer = ctl.later(0.5, arrive)
    started = time.monotonic()
    status, _out, err = ctl("rebalance", "--apply", "--no-legend")
    timer.join()
    assert 0.5 <= time.monotonic() - started < 4
    assert (status, err) == (
        0,
        "Unit u.service is on f1000000.../10.78.0.11\nUnit up.service is on f1000000.../10.78.0.11\n",
    )


def test_rebalance_tells_what_did_not_move(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    ctl.store.moves = (Move("u.service", F2, F1),)
    monkeypatch.setattr(wait, "ROUND", 0.2)
    status, _out, err = ctl("rebalance", "--apply", "--block-attempts=2", "--no-legend")
    assert (status, err) == (1, "Gave up on the move of u.service: it is on f2000000.../10.78.0.12 still\n")
    monkeypatch.setattr(machines, "_STAYS", 0.3)
    status, _out, err = ctl("rebalance", "--apply", "--no-legend")
    assert (status, err) == (
        1,
        "Unit u.service stayed on f2000000.../10.78.0.12: by now it would not be better off elsewhere\n",
    )
    timer = ctl.later(0.1, lambda: ctl.store.units.pop("u.service"))
    assert ctl("rebalance", "--apply", "--no-legend")[::2] == (1, "Unit u.service was destroyed by somebody else\n")
    timer.join()


def test_servers_that_cannot_rebalance_or_drain(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As upstream's fleetd answers paths that it does not know."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "old"))
        listener.listen()

        def serve() -> None:
            body = b'{"error":{"code":404,"message":""}}'
            peer, _address = listener.accept()
            peer.recv(10000)
            peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert main([f"--endpoint=unix://{tmp_path}/old", "rebalance"]) == 1
        thread.join()
    assert capfd.readouterr().err == "this fleetd cannot rebalance: it has no such resource\n"


# -- what machines say ---------------------------------------------------------


def test_status_and_journal_through_fleetd(ctl: Ctl) -> None:
    ctl.store.answers = [Answer("one\n"), Answer("two ●\n"), Answer("", 3)]
    assert ctl("status", "u") == (3, "one\ntwo ●\n", "")
    assert ctl("journal", "--lines=5", "--output=cat", "u.service@f2")[:2] == (3, "one\ntwo ●\n")
    assert ctl.store.asked == [(F2, Question("status", "u.service")), (F2, Question("journal", "u.service", 5, "cat"))]
    status, _out, err = ctl("status", "--ssh", "u")
    assert (status, err) == (1, "cannot run ssh: there is no such program on this machine\n")
    status, _out, err = ctl("journal", "--output=nonsense", "u")
    assert status == 1
    assert "journal output 'nonsense' is unknown; allowed are short" in err


def test_status_of_a_global_unit_on_all_machines_or_on_one(ctl: Ctl) -> None:
    status, out, err = ctl("status", "g")
    assert (status, out) == (0, "text\n" * 3)
    assert err.splitlines() == [f"==> g.service on f{n}000000.../10.78.0.1{n}" for n in (1, 2, 3)]
    ctl.store.asked.clear()
    assert ctl("status", "g.service@f3") == (0, "text\n", "")
    assert ctl.store.asked == [(F3, Question("status", "g.service"))]


def test_status_says_what_a_unit_waits_for(ctl: Ctl) -> None:
    ctl.store.targets["u.service"] = Target(F2, "update waits for up.service")
    assert ctl("status", "u") == (0, "text\n", "Unit u.service: update waits for up.service\n")
    assert ctl("status", "lost") == (
        1,
        "",
        "Unit lost.service does not appear to be loaded: no machine has disk=ssd\n",
    )
    del ctl.store.present[F2]
    _status, _out, err = ctl("status", "u")
    assert err == (f"Machine {F2}, which unit u.service is on, is not present any more: update waits for up.service\n")


def test_status_for_programs(ctl: Ctl) -> None:
    ctl.store.answers = [Answer("text ●\n"), Answer("", 3)]
    status, out, err = ctl("status", "--format=json", "u.service", "lost", "g.service@f3")
    assert (status, err) == (3, "")
    assert out.isascii()
    base = {"dstate": "launched", "reason": None}
    told = {"load": "loaded", "active": "active", "sub": "running", "exit_status": 3, "output": "text ●\n"}
    nothing = dict.fromkeys((*told, "machine"))
    assert json.loads(out) == [
        {"unit": "u.service", **base, "machine": F2, **told},
        {"unit": "lost.service", **base, **nothing, "reason": "no machine has disk=ssd"},
        {"unit": "g.service", **base, "machine": F3, **told},
    ]


def test_restart_where_the_unit_is(ctl: Ctl) -> None:
    ctl.store.answers = [Answer("", 0)]
    assert ctl("restart", "u", "g.service@f3") == (
        0,
        "Unit u.service launched on f2000000.../10.78.0.12\n",
        "Unit u.service was restarted.\nUnit g.service was restarted.\n",
    )
    assert ctl.store.asked == [(F2, Question("restart", "u.service")), (F3, Question("restart", "g.service"))]
    assert ctl.store.units["u.service"].desired == "launched"


def test_a_restart_that_fails_is_the_last(ctl: Ctl) -> None:
    ctl.store.answers = [Answer("Job for g.service failed.\n"), Answer("", 1)]
    status, out, _err = ctl("restart", "g", "u")
    assert (status, out) == (1, "Job for g.service failed.\n")
    assert ctl.store.asked == [(F1, Question("restart", "g.service"))]
    assert ctl("restart", "u")[::2] == (1, "Job for g.service failed.\n")
    assert ctl("restart", "lost")[::2] == (
        1,
        "Unit lost.service does not appear to be loaded: no machine has disk=ssd\n",
    )


def test_a_restart_may_take_longer_than_other_answers(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    ctl.store.quiet = True
    monkeypatch.setattr(wait, "ROUND", 0.2)
    monkeypatch.setattr(ctl_client, "ASK_TIMEOUT", 0.1)
    started = time.monotonic()
    status, _out, err = ctl("--request-timeout=0.3", "restart", "--block-attempts=4", "u")
    assert 0.7 < time.monotonic() - started < 3
    assert status == 1
    assert "did not answer within 0.8 s" in err


def test_following_a_journal_until_the_server_goes_away(ctl: Ctl) -> None:
    ctl.store.answers = [Answer("a ●\n"), Answer("b\n")]
    ctl.store.quiet = True
    with ctl.process("journal", "-f", "u") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "a ●\n".encode()
        assert process.stdout.readline() == b"b\n"
        ctl.server.stop()
        assert process.wait(10) == 1
        assert process.stderr.read() == (
            f"the journal of u.service broke off: fleetd at unix://{ctl.server.path} ended it\n".encode()
        )


def test_following_ends_with_ctrl_c(ctl: Ctl) -> None:
    ctl.store.answers = [Answer("a\n")]
    ctl.store.quiet = True
    with ctl.process("journal", "--follow", "u") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"a\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""


# -- by the beginning of a name ------------------------------------------------


def test_units_by_the_beginning_of_their_names(ctl: Ctl) -> None:
    assert ctl("status", "up") == (0, "text\n", "")
    assert ctl.ok("cat", "los").startswith("[Unit]\nDescription=Näme\n")
    assert ctl.ok("journal", "g") == "text\n" * 3
    ctl.store.units["upper.service"] = ctl.store.units["up.service"]
    ctl.store.units["upper.service"] = Unit("upper.service", PLAIN)
    assert ctl("status", "up")[0] == 0  # a whole name is not ambiguous
    message = "More than one unit has a name that begins with u: u.service, up.service, upper.service\n"
    del ctl.store.units["u.service"]
    assert ctl("cat", "u") == (1, "", message.replace("u.service, ", "", 1))
    assert ctl("ssh", "uppe")[2].startswith("Unit upper.service does not appear to be loaded")
    assert ctl("ssh", "up.s")[2] == "cannot run ssh: there is no such program on this machine\n"
    assert ctl("status", "nope") == (1, "", "Unit nope.service does not exist.\n")
    assert ctl("stop", "uppe") == (1, "", "Unit uppe.service does not exist\n")  # what changes units wants whole names


def test_many_candidates_are_cut(ctl: Ctl) -> None:
    for number in range(30):
        ctl.store.units[f"n{number:02}.service"] = Unit(f"n{number:02}.service", PLAIN)
    err = ctl("cat", "n")[2]
    assert err.endswith("n18.service, n19.service and 10 more\n")


# -- rows with reasons ---------------------------------------------------------


def test_what_is_not_placed_has_a_row_with_the_reason(ctl: Ctl) -> None:
    full = ctl.ok("list-units")
    assert full.splitlines()[0] == "UNIT\t\tMACHINE\t\t\tACTIVE\tSUB\tREASON"
    assert "lost.service\t-\t\t\t-\t-\tno machine has disk=ssd\n" in full
    placed = "g.service\tf1000000.../10.78.0.11\tactive\trunning\n"
    assert placed in full
    # who names columns and not the reason gets upstream's rows
    assert "lost" not in ctl.ok("list-units", "--fields=unit,machine,active,sub")
    del ctl.store.units["lost.service"]
    without = ctl.ok("list-units")
    assert without.splitlines()[0] == "UNIT\t\tMACHINE\t\t\tACTIVE\tSUB"
    assert [line for line in full.splitlines()[1:] if "lost" not in line] == without.splitlines()[1:]


def test_reasons_beside_a_machine_are_shown_when_asked_for(ctl: Ctl) -> None:
    ctl.store.targets["u.service"] = Target(F2, "update waits for up.service")
    assert ctl.ok("list-unit-files", "--fields=unit,reason", "--no-legend").splitlines()[-3:] == [
        "u.service\tupdate waits for up.service",
        "up.service\t-",
        "web@.service\t-",
    ]
    assert "u.service\tupdate waits for up.service\n" in ctl.ok("list-units", "--fields=unit,reason")


def unit(name: str, **record: object) -> dict[str, object]:
    return {"name": name, "desiredState": "launched", **record}


def test_which_rows_there_are() -> None:
    global_options = [{"section": "X-Fleet", "name": "Global", "value": "true"}]
    rows = show.states_with_reasons(
        [{"name": "leaving", "machineID": "m"}, {"name": "plain", "machineID": "m"}],
        [
            unit("leaving", reason="waits until machine m has stopped it"),
            unit("plain", machineID="m"),
            unit("gone", machineID="n", reason="sticks to machine n, which is not present"),
            unit("fresh"),
            unit("everywhere", options=global_options),
            unit("nowhere", options=global_options, reason="none fits"),
            unit("idle", desiredState="inactive", reason="old"),
        ],
    )
    assert [(row["name"], row.get("machineID"), row.get("reason")) for row in rows] == [
        ("fresh", "", show.UNDECIDED),
        ("gone", "n", "sticks to machine n, which is not present"),
        ("leaving", "m", "waits until machine m has stopped it"),
        ("nowhere", "", "none fits"),
        ("plain", "m", None),
    ]


# -- for programs --------------------------------------------------------------


def test_lists_for_programs(ctl: Ctl) -> None:
    assert json.loads(ctl.ok("list-machines", "--format=json"))[0] == {
        "machine": F1,
        "ip": "10.78.0.11",
        "metadata": {"az": "az1", "role": "lab"},
        "state": "ready",
    }
    states = json.loads(ctl.ok("list-units", "--format", "json"))
    digest = ctl.store.units["u.service"].hash
    running_there = {"load": "loaded", "active": "active", "sub": "running", "hash": digest, "reason": None}
    assert {"unit": "u.service", "machine": F2, **running_there} in states
    assert (
        dict.fromkeys(running_there)
        | {
            "unit": "lost.service",
            "machine": None,
            "reason": "no machine has disk=ssd",
        }
        in states
    )
    text = ctl.ok("list-unit-files", "--format=json")
    assert text.isascii()
    files = {record["unit"]: record for record in json.loads(text)}
    assert files["g.service"]["target"] == "global"
    assert files["g.service"]["global"] is True
    assert files["lost.service"] == {
        "unit": "lost.service",
        "hash": digest,
        "dstate": "launched",
        "state": "inactive",
        "target": None,
        "global": False,
        "desc": "Näme",
        "reason": "no machine has disk=ssd",
    }
    assert json.loads(ctl.ok("list-machines", "--format=json", "--fields=ip")) == [
        {"ip": f"10.78.0.1{number}"} for number in (1, 2, 3)
    ]
    assert ctl("list-units", "--format=xml") == (
        2,
        "",
        "Error: flag --format is 'xml', not table or json\nRun 'fleetctl --help' for usage.\n",
    )


@pytest.mark.parametrize("command", ["list-machines", "list-units", "list-unit-files", "rebalance"])
def test_fields_are_those_of_help_and_completion(ctl: Ctl, command: str) -> None:
    [flag] = [flag for flag in COMMANDS[command].flags if flag.name == "fields"]
    err = ctl(command, "--fields=nonsense")[2]
    told = re.search(r"there are ([a-z, ]+)\)", err)
    assert told is not None
    assert told[1].split(", ") == flag.completes.split(",")
    assert ctl.ok(command, f"--fields={flag.completes}", "--format=json")


# -- watching ------------------------------------------------------------------


def lines_until(process: subprocess.Popen[bytes], last: str) -> list[str]:
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found.append(line.decode().rstrip("\n"))
        if found[-1] == last:
            return found
    raise AssertionError(f"{last!r} did not come: {found}")


def test_watching_into_a_pipe_adds_what_is_new(ctl: Ctl) -> None:
    with ctl.process("list-machines", "--watch", "--no-legend", "--fields=ip,state") as process:
        assert lines_until(process, "10.78.0.13\tready")[0] == "10.78.0.11\tready"
        ctl.server.call("POST", f"/fleet/v1/machines/{F1}/drain")
        assert lines_until(process, "10.78.0.13\tready") == [
            "",
            "10.78.0.11\tdraining",
            "10.78.0.12\tready",
            "10.78.0.13\tready",
        ]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_watching_for_programs_is_an_array_a_line(ctl: Ctl) -> None:
    with ctl.process("list-units", "-w", "--format=json", "--fields=unit,machine") as process:
        assert process.stdout is not None
        assert {"unit": "u.service", "machine": F2} in json.loads(process.stdout.readline())
        ctl.server.run(lambda: ctl.store.forget("u.service", F2))
        assert {"unit": "u.service", "machine": F2} not in json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.wait(10)


def test_watching_shows_a_change_soon_and_does_not_poll(ctl: Ctl) -> None:
    with ctl.process("list-unit-files", "--watch", "--fields=unit", "--no-legend") as process:
        lines_until(process, "web@.service")
        time.sleep(1.0)  # the second look
        reads = ctl.store.reads
        time.sleep(1.0)
        assert ctl.store.reads == reads
        started = time.monotonic()
        ctl.server.put("zz.service", options=[{"section": "S", "name": "N", "value": "v"}])
        lines_until(process, "zz.service")
        assert time.monotonic() - started < 1.5
        process.send_signal(signal.SIGINT)
        process.wait(10)


def test_watching_survives_a_restart_of_the_daemon(ctl: Ctl) -> None:
    with ctl.process("list-machines", "--watch", "--no-legend", "--fields=ip") as process:
        lines_until(process, "10.78.0.13")
        ctl.server.stop()
        assert process.stderr is not None
        assert process.stderr.readline().endswith(b" (trying again)\n")
        ctl.store.present.pop(F3)
        with Server(ctl.store, ctl.server.path):
            assert lines_until(process, "10.78.0.12") == ["", "10.78.0.11", "10.78.0.12"]
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        assert process.stderr.read() == b""


def test_watching_a_daemon_that_stays_away(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "AWAY", 0.2)
    monkeypatch.setattr(watch, "RETRY", 0.1)
    timer = threading.Timer(0.3, ctl.server.stop)
    timer.start()
    status, out, err = ctl("list-machines", "--watch", "--no-legend", "--fields=ip")
    timer.join()
    assert (status, out) == (1, "10.78.0.11\n10.78.0.12\n10.78.0.13\n")
    first, last = err.splitlines()
    assert first == f"{last} (trying again)"
    assert ctl("list-machines", "--watch")[::2] == (1, f"{last}\n")


def read_until(terminal: int, found: Callable[[bytes], bool]) -> bytes:
    """What a terminal shows, until it is what one waits for."""
    seen = b""
    end = time.monotonic() + 20
    while not found(seen):
        ready, _writable, _errors = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert ready, seen
        seen += os.read(terminal, 4096)
    return seen


def test_watching_on_a_terminal_draws_in_place(ctl: Ctl) -> None:
    ours, theirs = pty.openpty()
    try:
        with ctl.process("list-machines", "--watch", "--no-legend", "--fields=ip", stdout=theirs) as process:
            os.close(theirs)
            seen = read_until(ours, lambda seen: seen.endswith(b"\x1b[J"))
            ctl.server.run(lambda: ctl.store.present.pop(F1))
            ctl.server.run(lambda: ctl.store.tell("machine", "", F1))
            seen += read_until(ours, lambda seen: seen.endswith(b"\x1b[J"))
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
    finally:
        os.close(ours)
    assert seen.startswith(b"\x1b[2J\x1b[H10.78.0.11\x1b[K\r\n")
    assert seen.endswith(b"\x1b[J\x1b[H10.78.0.12\x1b[K\r\n10.78.0.13\x1b[K\r\n\x1b[J")


def test_no_more_is_drawn_than_there_is_room_for() -> None:
    assert watch.drawn("a\nb\nc\n", 4) == "\x1b[Ha\x1b[K\nb\x1b[K\nc\x1b[K\n\x1b[J"
    assert watch.drawn("a\nb\nc\nd\n", 4) == "\x1b[Ha\x1b[K\nb\x1b[K\n(2 more)\x1b[K\n\x1b[J"


def test_a_watch_that_nobody_reads_any_more(ctl: Ctl) -> None:
    with ctl.process("list-machines", "--watch") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        ctl.server.call("POST", f"/fleet/v1/machines/{F1}/drain")
        ctl.server.run(lambda: ctl.store.present.pop(F1))
        ctl.server.run(lambda: ctl.store.tell("machine", "", F1))
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


# -- terminals and pipes -------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_terminals_that_are_not_utf_8(ctl: Ctl, encoding: str) -> None:
    ctl.store.targets["lost.service"] = Target("", "none fits: 3 lack ünïcode; …")
    ctl.store.answers = [Answer("● ü\n"), Answer("", 0)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}

    def run(*words: str) -> tuple[bytes, bytes]:
        with ctl.process(*words, env=environment) as process:
            return process.communicate(timeout=30)

    out, err = run("list-units")
    assert out.splitlines()[-3].endswith("none fits: 3 lack ünïcode; …".encode(encoding, "replace"))
    assert err == b""
    assert run("status", "u") == ("● ü\n".encode(encoding, "replace"), b"")
    out, err = run("status", "lost")
    assert b"Traceback" not in err
    assert err.count(b"\n") == 1
    # a file is its bytes
    assert b"Description=N\xc3\xa4me\n" in run("cat", "u")[0]
    assert json.loads(run("list-unit-files", "--format=json")[0])[0]["desc"] == "Näme"


def test_names_that_are_not_utf_8(ctl: Ctl) -> None:
    for words in (
        ["cat", "\udcff"],
        ["status", "\udcff"],
        ["destroy", "\udcff"],
        ["start", "\udcff"],
        ["drain", "\udcff"],
    ):
        status, _out, err = ctl(*words)
        assert status == (0 if words[0] == "destroy" else 1)
        assert err.count("\n") == 1


def test_a_reader_that_wants_one_line(ctl: Ctl) -> None:
    for number in range(4000):  # some systems' pipes take a megabyte
        name = f"n{number}{'x' * 230}.service"
        ctl.store.published[F1, name] = running(name, F1, ctl.store.units["u.service"])
    for words in (["list-units"], ["list-units", "--format=json"]):
        with ctl.process(*words) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(20) == 1
            assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk(ctl: Ctl) -> None:
    with open("/dev/full", "wb") as full, ctl.process("list-machines", stdout=full) as process:
        _out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, b"fleetctl cannot go on: No space left on device\n")


# -- completion ----------------------------------------------------------------


@pytest.fixture
def complete(ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    monkeypatch.setenv("FLEETCTL_ENDPOINT", f"unix://{ctl.server.path}")

    def call(line: str) -> list[str]:
        return ctl.ok("__complete", str(len(line)), " \t\n\"'@><=;|&(:", line).splitlines()

    return call


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fleetctl list-", ["list-announced", "list-machines", "list-unit-files", "list-units"]),
        ("fleetctl --request-timeout 3 --debug dr", ["drain"]),
        ("fleetctl help reb", ["rebalance"]),
        ("fleetctl completion ", ["bash"]),
        ("fleetctl drain f", [F1, F2, F3]),
        ("fleetctl drain f1 f", [F1, F2, F3]),
        (f"fleetctl drain {F1} f", [F2, F3]),
        ("fleetctl cat ", ["g.service", "idle.service", "lost.service", "u.service", "up.service", "web@.service"]),
        ("fleetctl stop u", ["u.service", "up.service"]),
        ("fleetctl stop u.service u", ["up.service"]),
        ("fleetctl stop idle", []),
        ("fleetctl unload l", ["lost.service"]),
        ("fleetctl status ", ["g.service", "u.service", "up.service"]),
        ("fleetctl stat g.service@f3", [f"@{F3}"]),  # bash breaks the word at the @
        ("fleetctl cat web@", ["@.service"]),
        ("fleetctl ssh f2", [F2]),
        ("fleetctl ssh --machine f3", [F3]),
        ("fleetctl ssh --machine=f3", [F3]),
        ("fleetctl ssh --unit u", ["u.service", "up.service"]),
        ("fleetctl journal --o", [":nospace", "--output="]),
        ("fleetctl journal --output=short-", ["short-iso", "short-monotonic", "short-precise"]),
        ("fleetctl journal --fol", ["--follow"]),
        ("fleetctl list-units --format ", ["json", "table"]),
        ("fleetctl list-units --fields=unit,ma", [":nospace", "unit,machine"]),
        ("fleetctl list-units --fields unit,u", [":nospace"]),
        ("fleetctl --ca-file ", [":files"]),
        ("fleetctl --ca-file=/", [":files"]),
        ("fleetctl list-machines ", []),
        ("fleetctl --driv", []),
    ],
)
def test_completion(complete: Callable[[str], list[str]], line: str, words: list[str]) -> None:
    assert complete(line) == words


@pytest.mark.parametrize("line", ["", "fleetctl", "fleetctl ", "fleetctl nonsense ", "fleetctl --bogus "])
def test_completion_of_commands(complete: Callable[[str], list[str]], line: str) -> None:
    assert complete(line) == [name for name in sorted(COMMANDS) if not COMMANDS[name].hidden]


def test_completion_of_files(
    complete: Callable[[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "units" / "more").mkdir(parents=True)
    for name in ("one.service", "two.timer", "notes.txt", ".hidden.service"):
        (tmp_path / "units" / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert complete("fleetctl submit un") == [":nospace", "units/"]
    assert complete("fleetctl submit units/") == ["units/more/", "units/one.service", "units/two.timer"]
    assert complete("fleetctl submit units/.") == ["units/.hidden.service"]
    monkeypatch.chdir(tmp_path / "units")
    assert complete("fleetctl start ") == ["idle.service", "more/", "one.service", "two.timer", "web@.service"]


def test_completion_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETCTL_ENDPOINT", "unix:///nonexistent/sock")
    assert offer(["stop", "u"]) == []
    assert offer(["--endpoint=nonsense", "stop", "u"]) == []
    monkeypatch.setenv("FLEETCTL_REQUEST_TIMEOUT", "soon")
    assert offer(["sto"]) == ["stop"]


def test_output_formats_are_those_that_machines_take() -> None:
    [flag] = [flag for flag in COMMANDS["journal"].flags if flag.name == "output"]
    assert flag.completes.split(",") == list(question.OUTPUTS)


def test_completion_in_bash(ctl: Ctl, tmp_path: Path) -> None:
    """In a bash on a terminal: Tab after ``web@`` and after a part of a flag that takes a value."""
    program = tmp_path / "fleetctl"
    program.write_text(
        f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(FLEET)!r})\n"
        "from flotilla_fleet.ctl.main import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TERM": "dumb", "HOME": str(tmp_path), "PS1": "> "}
    environment |= {"FLEETCTL_ENDPOINT": f"unix://{ctl.server.path}", "INPUTRC": "/dev/null"}
    ours, theirs = pty.openpty()
    command = ["/bin/bash", "--norc", "--noprofile", "-i"]
    try:
        with (
            subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env=environment,
                cwd=tmp_path,
                start_new_session=True,
            ) as bash,
            killed(bash),
        ):
            os.close(theirs)
            os.write(ours, b"source <(fleetctl completion bash); echo rea''dy\n")
            read_until(ours, lambda seen: b"\nready" in seen)
            for typed, meant in [
                (b"fleetctl cat web@\t", b"web@.service"),
                (b"fleetctl status g.service@f3\t", f"g.service@{F3}".encode()),
                (b"fleetctl list-machines --form\tj\t", b"--format=json"),
                (b"fleetctl drain f1\t", F1.encode()),
            ]:
                os.write(ours, typed)
                read_until(ours, lambda seen, meant=meant: meant in seen.replace(b"\x07", b""))  # type: ignore[misc]
                os.write(ours, b"\x15")  # take the line back
            os.write(ours, b"exit\n")
            bash.wait(10)
    finally:
        os.close(ours)


@pytest.mark.parametrize("words", [[], ["zsh"], ["bash", "x"]])
def test_completion_of_other_shells(ctl: Ctl, words: list[str]) -> None:
    assert ctl("completion", *words)[0] == 2


@pytest.mark.parametrize("words", [[], ["x", "y", "z"], ["1"]])
def test_the_hidden_command_called_by_hand(ctl: Ctl, words: list[str]) -> None:
    assert ctl("__complete", *words)[0] == 2


# -- help ----------------------------------------------------------------------


SHOWN = [name for name, command in COMMANDS.items() if not command.hidden]


@pytest.mark.parametrize("name", SHOWN)
def test_each_command_has_an_example_that_parses(name: str) -> None:
    example = COMMANDS[name].example
    assert example, f"{name} has no example"
    words = example.removeprefix("source <(").rstrip(")").split()
    assert words[0] == "fleetctl"
    assert read_words(words[1:])[0] == name
    assert f"Example:\n  {example}\n" in command_help(name)


def test_the_reference_is_what_the_program_says() -> None:
    """Written by ``python tools/fleetctl_docs.py``."""
    text = (ROOT / "docs" / "fleetctl.md").read_text()
    assert reference() in text
    for name in SHOWN:
        assert f"\n### {name}\n" in text


def test_the_reference_names_the_fields_of_json() -> None:
    text = (ROOT / "docs" / "fleetctl.md").read_text()
    for command in ("list-machines", "list-units", "list-unit-files", "rebalance"):
        [flag] = [flag for flag in COMMANDS[command].flags if flag.name == "fields"]
        row = next(line for line in text.splitlines() if line.startswith(f"| `{command}` |"))
        assert re.findall(r"`([a-z]+)`", row.partition("|")[2].partition("|")[2]) == flag.completes.split(",")
