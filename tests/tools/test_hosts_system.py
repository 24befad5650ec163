# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks, files, commands, firewall texts and the command line of local hosts, as far as no host is needed."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from localhosts import cli, guest, image, network, packages, system
from localhosts.aptsources import Source
from localhosts.plan import Cluster, HostsError

TOOLS = Path(__file__).resolve().parents[2] / "tools"
HOLD = (
    "import sys, time; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path; from localhosts.system import Progress, locked\n"
    "with locked(Path(sys.argv[2]), Progress(), 'it', 5): print('held', flush=True); time.sleep(60)\n"
)


def hold(lock: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(TOOLS), str(lock)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_held_lock_names_its_owner(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock) as holder:
        with (
            pytest.raises(HostsError, match=rf"the thing has been in use by process {holder.pid} for"),
            system.locked(lock, system.Progress(), "the thing", 0.1),
        ):
            pytest.fail("two had the lock")
        holder.kill()


def test_a_lock_dies_with_its_owner(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with hold(lock) as holder:
        holder.send_signal(signal.SIGKILL)
    assert lock.exists()
    with system.locked(lock, system.Progress(), "the thing", 0.1):
        assert lock.read_text() == str(os.getpid())
    assert not lock.exists()


def test_a_written_file_is_whole_and_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    system.write_file(path, "secret", 0o600)
    assert path.read_text() == "secret"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_a_failing_command_is_told_with_what_it_said() -> None:
    with pytest.raises(HostsError, match="exit code 3: no such luck"):
        system.run("sh", "-c", "echo no such luck >&2; exit 3")


def test_a_missing_program_is_told_with_the_fix() -> None:
    with pytest.raises(HostsError, match=r"program no-such-program is missing: run 'tools/hosts\.py base'"):
        system.run("no-such-program")


def test_the_end_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 20000 + b"\n\nlast \xff line\n\n")
    assert system.tail(log, 1) == ["last \ufffd line"]
    assert system.tail(tmp_path / "none", 3) == []


CLUSTER = Cluster("local", "core-", ipaddress.IPv4Network("10.79.7.0/24"))


def test_rules_are_found_again_in_what_iptables_saves() -> None:
    saved = (
        "# Generated\n*nat\n:POSTROUTING ACCEPT [0:0]\n"
        '-A POSTROUTING -s 10.79.7.0/24 ! -d 10.79.7.0/24 -m comment --comment "flotilla:local:out" -j MASQUERADE\n'
        "-A POSTROUTING -s 10.79.9.0/24 -m comment --comment flotilla:local-2:out -j MASQUERADE\nCOMMIT\n"
        "*filter\n-A FORWARD -i flo-local -m comment --comment flotilla:local:from -j ACCEPT\n-A FORWARD -j DROP\n"
        "-A FORWARD -o flo-local -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment flotilla:local:to"
        " -j ACCEPT\nCOMMIT\n"
    )
    assert network.rules_of(saved, "local") == network.rules(CLUSTER)


def test_rules_as_input_of_iptables_restore() -> None:
    text = network.restore_text([("-I", rule) for rule in network.rules(CLUSTER)])
    assert text.startswith("*nat\n-I POSTROUTING -s 10.79.7.0/24 ! -d 10.79.7.0/24 -m comment")
    assert text.count("COMMIT\n") == 2
    assert "'" not in text


def origin(**changes: object) -> image.Origin:
    values: dict[str, object] = {
        "suite": "bookworm",
        "architecture": "amd64",
        "sources": (Source("http://mirror.example/debian", "bookworm", ("main",)),),
        "apt_options": "",
        "authorities": (),
    }
    return image.Origin(**{**values, **changes})  # type: ignore[arg-type]


def test_layers_stack_upon_each_other() -> None:
    layers = image.recipes(origin())
    assert list(layers) == ["system", "cached", "installed", "cloud", "vagrant", "netboot", "libvirt"]
    assert layers["installed"].below == (layers["system"].key, layers["cached"].key)
    assert layers["cloud"].below == (*layers["installed"].below, layers["installed"].key)


@pytest.mark.parametrize(
    "changes",
    [
        {"suite": "trixie"},
        {"architecture": "arm64"},
        {"sources": (Source("http://other.example/debian", "bookworm", ("main",)),)},
        {"apt_options": 'Acquire::Retries "3";\n'},
        {"authorities": (("ca.crt", "x"),)},
    ],
)
def test_another_origin_makes_every_layer_anew(changes: dict[str, object]) -> None:
    before, after = image.recipes(origin()), image.recipes(origin(**changes))
    assert all(before[kind].key != after[kind].key for kind in before)


def test_another_package_of_the_roles_leaves_the_system_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.recipes(origin())
    monkeypatch.setattr(packages, "ROLES", (*packages.ROLES, "hello"))
    after = image.recipes(origin())
    assert [kind for kind in before if before[kind].key == after[kind].key] == ["system"]


def test_a_process_is_known_by_its_start() -> None:
    me = guest.inspect(os.getpid())
    assert me is not None
    assert me.parent == os.getppid()
    assert 0 < me.started < float(Path("/proc/uptime").read_text().split()[0])
    assert guest.inspect(2**22 + 1) is None


def test_a_signal_never_reaches_a_process_that_took_over_an_id() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        seen = guest.inspect(child.pid)
        assert seen is not None
        earlier = guest.Process(seen.pid, seen.name, seen.parent, seen.inner_pid, seen.started - 1)
        guest.send_signal(earlier, signal.SIGKILL)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        guest.send_signal(seen, signal.SIGKILL)
        assert child.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "--cluster", "no-such"], "there is no cluster 'no-such'"),
        (["ssh", "--cluster", "no-such", "core-01"], "there is no cluster 'no-such'"),
        (["up", "--cluster", "Bad", "--hosts", "1"], "cluster name 'Bad' is not usable"),
        (["up", "--cluster", "ok", "--hosts", "0"], "--hosts 0 is not possible"),
        (["up", "--cluster", "ok", "--var", "x"], "--var 'x' is not understood"),
        (["down", "--cluster", "../etc"], "cluster name '../etc' is not usable"),
    ],
)
def test_wrong_calls_give_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(guest, "DISKS", tmp_path)
    assert cli.main(arguments) == 1
    printed = capsys.readouterr().err
    assert said in printed
    assert len(printed.splitlines()) == 1


def test_not_root(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["status", "--cluster", "x"]) == 1
    assert "run this as root" in capsys.readouterr().err
