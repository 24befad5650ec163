# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of one machine's fleetd and of what it stands on: F2, F6, F10, F18-F21."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest
from faults import oracle
from faults.lab import (
    GRACE,
    INTERVAL,
    MOVED,
    OUTPUT,
    SLACK,
    TTL,
    Lab,
    clock,
    inventory,
    names,
    on,
    play,
    wait,
    witness,
)
from faults.oracle import Wanted, require
from localhosts.plan import HostsError


def _restarts(lab: Lab, kills: int, restarts: int) -> None:
    """F2: kill -9 and ``systemctl restart`` of fleetd touch no unit, and nobody sees the machine leave."""
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    for host in lab.hosts:
        for number in range(kills + restarts):
            if number < kills:
                host.signal("fleet", signal.SIGKILL)
                host.run("systemctl start fleet")  # waits for the start that systemd has queued
            else:
                host.run("systemctl restart fleet")
            # The lease is what it takes up first; it has renewed it when it answers this.
            wait(f"the API of {host}", 20, lambda h=host: h.api("GET", "/fleet/v1/machines").status == 200)
        lab.note(f"{host}: {kills} kills, {restarts} restarts")
    time.sleep(TTL)
    converged = lab.check_converged({name: Wanted("launched") for name in units})
    runs = lab.runs()
    gone = [change for change in lab.history() if "/presence/" in change.key and change.value is None]
    left = [oracle.Violation("S3", f"revision {c.revision}: {c.key} left etcd") for c in gone]
    require(
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(runs, dict.fromkeys(units, 1)),
        left,
        converged,
        lab.check_history(),
    )


@pytest.mark.quick
def test_f2_a_restarted_agent_touches_nothing(lab: Lab) -> None:
    _restarts(lab, kills=2, restarts=1)


def test_f2_thirty_restarts_on_each_host(lab: Lab) -> None:
    _restarts(lab, kills=20, restarts=10)


# -- hanging ---------------------------------------------------------------------


@pytest.mark.parametrize("again", [False, True], ids=["once", "until-the-lease-is-over"])
def test_f6_a_hanging_agent_is_fenced_by_systemd(lab: Lab, again: bool) -> None:
    """Its stop units are stopped before they run elsewhere, its run units go on; ``again``: no fleetd comes up."""
    stop = {name: witness("OnPartition=stop\n") for name in names(6)}
    run = {name: witness() for name in names(3, "t-run-")}
    units = {**stop, **run}
    lab.submit(units)
    placed = {name: hosts[0] for name, hosts in lab.until_active(units).items()}
    victim = lab.others(lab.engine_leader())[-1]
    mine = sorted(name for name, host in placed.items() if host is victim)
    assert set(mine) & set(stop)
    before = {key: value for key, value in lab.invocations().items() if not key.startswith(f"{victim}/")}
    moment = clock()
    paused = {victim.signal("fleet", signal.SIGSTOP)}
    lab.note(f"paused fleetd on {victim}")
    while clock() < moment + 3 * TTL:
        if again:
            pid = victim.main_pid("fleet")
            if pid and pid not in paused:
                paused.add(pid)
                os.kill(pid, signal.SIGSTOP)
                lab.note(f"paused its successor {len(paused) - 1}")
        time.sleep(0.2)
    for pid in paused:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    resumed = clock()
    lab.note("nothing is paused any more")
    converged = lab.check_converged({name: Wanted("launched") for name in units}, 120)
    runs = lab.runs()
    fenced = sorted(set(mine) & set(stop))
    for name in fenced:
        lab.note(f"{name} was away for {oracle.longest_gap(runs, name, moment, clock()):.2f} s")
    windows = [(moment + TTL - TTL / 3 - 1, clock())]
    # A fleetd that has started again takes up its lease, if that lives still, and then nothing had to move.
    bound = MOVED + GRACE
    require(
        oracle.check_overlap(runs, stop),
        oracle.check_overlap(runs, run, windows),
        oracle.check_gap(runs, fenced, moment - 1, resumed, bound),
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(runs, {name: 1 for name in units if name not in mine}),
        converged,
        lab.check_history(),
    )
    if again:
        assert all(oracle.starts(runs, name) == 2 for name in fenced)
        assert all(lab.where(name) != [victim] for name in fenced)


# -- bad units -------------------------------------------------------------------

HANGING_STOP = "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sleep 600\nTimeoutStopSec=600\n"
BAD = {
    "t-00-link.service": "[Service]\nExecStart=/bin/sleep infinity\n",
    "t-01-folder.service": "[Service]\nExecStart=/bin/sleep infinity\n",
    "t-02-setting.service": "[Service]\nType=simple\nRestart=no\n",
    "t-03-start.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 600\n",
    "t-04-false.service": "[Service]\nExecStart=/bin/false\n",
    "t-05-stop.service": HANGING_STOP,
    "t-06-needs.service": "[Unit]\nRequires=no-such.service\n[Service]\nExecStart=/bin/true\n",
}
ISOLATED = INTERVAL + SLACK
"""S7: seconds in which a good unit follows, whatever others do."""


@pytest.mark.quick
def test_f10_bad_units_hold_up_no_good_ones(lab: Lab) -> None:
    bad_among_good(lab)


def bad_among_good(lab: Lab) -> None:
    """The body of F10: units that fail in every way there is, before and among good ones on the same machine."""
    host = lab[1]
    (host.root / "run/systemd/system/t-00-link.service/in-the-way").mkdir(parents=True)
    (host.root / "run/fleet/units/t-01-folder.service").mkdir()
    try:
        lab.submit({name: f"{text}[X-Fleet]\n{on(host)}" for name, text in BAD.items()})
        time.sleep(1)
        good = {f"t-good-{number}.service": witness(on(host)) for number in range(10)}
        begun = clock()
        lab.submit(good)
        late = _until(lab, lambda runs: all(oracle.starts(runs, name) for name in good), ISOLATED)
        lab.note(f"10 good units ran {clock() - begun:.2f} s after they were submitted")
        states = {state["name"]: state for state in lab[0].collect("state", "states")}
        told = {name: (states.get(name, {}).get("error", ""), _state_of(states, name)) for name in BAD}
        lab.note(f"bad units: {told}")
        # A unit whose stop hangs holds up neither changes nor stops of others.
        lab.destroy("t-05-stop.service")
        changed = {name: text + "#changed\n" for name, text in good.items()}
        changed = {name: text.replace("%n", "%n 0") for name, text in changed.items()}
        time.sleep(0.5)
        lab.submit(dict(list(changed.items())[:5]))
        late += _until(lab, lambda runs: all(oracle.starts(runs, name) == 2 for name in list(good)[:5]), ISOLATED + 2)
        for name in list(good)[5:]:
            lab.destroy(name)
        late += _until(lab, lambda _runs: not any(host.active().get(n) == "active" for n in list(good)[5:]), ISOLATED)
        require(late, lab.check_history())
        assert told["t-00-link.service"][0]
        assert "t-01-folder" in told["t-01-folder.service"][0]
        assert told["t-02-setting.service"][1].startswith("bad-setting")
        assert "bad unit file setting" in told["t-02-setting.service"][0]
        assert told["t-04-false.service"][1].endswith("failed/failed")
        assert told["t-06-needs.service"][0] or told["t-06-needs.service"][1] != "loaded/active/running"
    finally:
        host.run("systemctl kill -s KILL t-05-stop.service t-03-start.service", check=False)
        host.run("rm -rf /run/systemd/system/t-00-link.service")
        with contextlib.suppress(OSError):
            (host.root / "run/fleet/units/t-01-folder.service").rmdir()
        host.run("systemctl daemon-reload")


def _state_of(states: dict[str, dict[str, str]], name: str) -> str:
    state = states.get(name, {})
    return "/".join(state.get(f"systemd{part}State", "") for part in ("Load", "Active", "Sub"))


def _until(lab: Lab, ready: Callable[[list[oracle.Run]], bool], seconds: float) -> list[oracle.Violation]:
    """S7 when ``ready`` of the witness log is not true within so many seconds."""
    try:
        wait("units follow", seconds, lambda: ready(lab.runs()), 0.1)
    except AssertionError as exc:
        runs = lab.runs()
        return [oracle.Violation("S7", f"{exc}; started were {[(run.unit, round(run.start, 1)) for run in runs]}")]
    return []


# -- the same machine twice --------------------------------------------------------


def test_f18_a_cloned_machine_is_refused_and_named(lab: Lab) -> None:
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    first, clone = lab[0], lab[2]
    mine = {key: value for key, value in lab.invocations().items() if key.startswith((f"{first}/", f"{lab[1]}/"))}
    boot = json.loads(lab.keys("presence")[f"presence/{first.machine}"])["boot_id"]
    identity = clone.root / "etc/machine-id"
    try:
        identity.chmod(0o644)
        identity.write_text(f"{first.machine}\n")
        since = clone.run("date +%s").strip()
        clone.run("systemctl restart fleet", timeout=60)

        def told() -> str:
            text = clone.run(f"journalctl --merge -u fleet -o cat --since @{since}")
            return next((line for line in text.splitlines() if "was the machine cloned?" in line), "")

        line = wait("the clone says why it is not there", 20, told)
        lab.note(line)
        for text in (first.address, clone.address, f"(boot {boot})"):
            assert text in line
        assert line.count("(boot ") == 2
        time.sleep(2 * TTL)
        leases = {c.key for c in lab.history() if c.key.endswith(f"presence/{first.machine}") and c.value is None}
        shown = {machine["id"]: machine["primaryIP"] for machine in first.collect("machines", "machines")}
        assert shown == {first.machine: first.address, lab[1].machine: lab[1].address}
        assert not leases, "the first machine was taken for dead"
        require(oracle.check_same(mine, lab.invocations()))
        others = [key for key in lab.invocations() if key.startswith(f"{clone}/")]
        assert not others, f"the clone runs {others}"
        refused = _preflight(lab)
        assert first.machine in refused, refused[-3000:]
        assert "machine-id" in refused or "machine id" in refused
    finally:
        identity.write_text(f"{clone.machine}\n")
        clone.run("systemctl restart fleet", timeout=60)
    lab.whole()
    require(
        lab.check_converged({name: Wanted("launched") for name in units}, 60),
        oracle.check_same(mine, lab.invocations()),
        lab.check_history(),
    )


def _preflight(lab: Lab) -> str:
    """What the play says; it must not come to an end."""
    del lab
    with pytest.raises(HostsError) as caught:
        play(inventory(), OUTPUT / "cloned.log")
    assert caught.value.args
    return (OUTPUT / "cloned.log").read_text(errors="replace")


# -- D-Bus -----------------------------------------------------------------------


def test_f19_without_dbus_nothing_stops_and_nothing_new_comes(lab: Lab) -> None:
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    host = lab[1]
    host.run("systemctl stop dbus.socket dbus.service", timeout=60)
    lab.note(f"stopped dbus on {host}")
    try:
        time.sleep(3)
        fresh = {name: witness() for name in names(6, "t-new-")}
        lab.submit(fresh)
        placed = lab.until_active(fresh, 30)
        assert all(hosts != [host] for hosts in placed.values()), placed
        lab.submit({"t-only.service": witness(on(host))})
        reason = wait("a reason", 10, lambda: lab[0].api("GET", "/fleet/v1/units/t-only.service").body.get("reason"))
        assert "has lost its connection to systemd" in reason
        time.sleep(60)
        kept = list(oracle.check_same(before, lab.invocations()))
    finally:
        host.run("systemctl start dbus.socket dbus.service", timeout=60)
        lab.note("dbus is back")
    lab.until_active(["t-only.service"], 10 + SLACK)
    for _ in range(5):
        host.run("systemctl daemon-reexec", timeout=60)
    time.sleep(2)
    lab.submit({"t-last.service": witness(on(host))})
    lab.until_active(["t-last.service"], 10 + SLACK)
    wanted = {name: Wanted("launched") for name in [*units, *fresh, "t-only.service", "t-last.service"]}
    require(
        kept,
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(lab.runs(), dict.fromkeys(wanted, 1)),
        lab.check_converged(wanted),
        lab.check_history(),
    )


# -- full disks ------------------------------------------------------------------


def test_f20_a_full_disk_is_told_by_the_unit_and_heals(lab: Lab) -> None:
    host = lab[1]
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    host.run(
        "mkdir /run/kept && cp -a /run/fleet/units/. /run/kept/ && "
        "mount -t tmpfs -o size=1M,mode=755 tmpfs /run/fleet/units && cp -a /run/kept/. /run/fleet/units/ && "
        "rm -rf /run/kept; head -c 2M /dev/zero >/run/fleet/units/.filler; :"
    )
    try:
        big = "".join(f"Environment=FILL{number}={'x' * 1000}\n" for number in range(8))
        full = {name: witness(on(host), big) for name in names(3, "t-full-")}
        lab.submit(full)
        good = {name: witness(on(lab[2])) for name in names(3, "t-good-")}
        lab.submit(good)
        lab.until_active(good, ISOLATED + 5)

        def told() -> bool:
            states = {state["name"]: state for state in lab[0].collect("state", "states")}
            return all("No space left" in states.get(name, {}).get("error", "") for name in full)

        wait("the units say that the disk is full", 10, told)
        time.sleep(TTL)
        kept = list(oracle.check_same(before, lab.invocations()))
        files = [name for name in host.files() if name in full]
        assert not files, f"half-written files: {files}"
    finally:
        host.run(
            "rm -f /run/fleet/units/.filler; mkdir /run/kept && cp -a /run/fleet/units/. /run/kept/;"
            "umount -l /run/fleet/units && cp -a /run/kept/. /run/fleet/units/; rm -rf /run/kept"
        )
    lab.until_active(full, 60)
    wanted = {name: Wanted("launched") for name in [*units, *full, *good]}
    require(kept, oracle.check_same(before, lab.invocations()), lab.check_converged(wanted), lab.check_history())


def test_f20_a_full_disk_of_etcd_takes_one_member_out(lab: Lab) -> None:
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    host = lab.etcd_leader()
    host.run(
        "systemctl stop etcd && mkdir /root/etcd.kept && cp -a /var/lib/etcd/. /root/etcd.kept/ && "
        "mount -t tmpfs -o size=300M,mode=700,uid=$(id -u etcd),gid=$(id -g etcd) tmpfs /var/lib/etcd && "
        "cp -a /root/etcd.kept/. /var/lib/etcd/ && systemctl start etcd && "
        "(head -c 300M /dev/zero >/var/lib/etcd/filler; :)",
        timeout=120,
    )
    lab.note(f"the disk of etcd on {host} is full")
    try:
        for number in range(10):
            lab.submit({f"t-w-{number}.service": witness()}, "inactive", lab.others(host)[0])
            time.sleep(1)
        kept = list(oracle.check_same(before, lab.invocations()))
        lab.submit({"t-new.service": witness()}, through=lab.others(host)[0])
        lab.until_active(["t-new.service"], 10 + SLACK)
    finally:
        host.run(
            "rm -f /var/lib/etcd/filler; systemctl stop etcd; rm -rf /root/etcd.kept; mkdir /root/etcd.kept && "
            "cp -a /var/lib/etcd/. /root/etcd.kept/ && umount -l /var/lib/etcd && "
            "rm -rf /var/lib/etcd/member && cp -a /root/etcd.kept/. /var/lib/etcd/ && rm -rf /root/etcd.kept;"
            "systemctl start etcd",
            timeout=120,
        )
    lab.whole()
    wanted = {name: Wanted("launched") for name in [*units, "t-new.service"]}
    wanted |= {f"t-w-{number}.service": Wanted("inactive") for number in range(10)}
    require(kept, oracle.check_same(before, lab.invocations()), lab.check_converged(wanted), lab.check_history())


# -- crash loops -----------------------------------------------------------------


ENDLESS = """\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sh -c 'sleep 0.3; exit 1'
Restart=always
RestartSec=100ms
"""


def test_f21_crash_loops_write_little(lab: Lab) -> None:
    """50 units that crash until systemd gives up, and three that it never gives up on."""
    ended = dict.fromkeys(names(50), "[Service]\nExecStart=/bin/false\nRestart=always\n")
    endless = dict.fromkeys(names(3, "t-endless-"), ENDLESS)
    begun = time.monotonic()
    lab.submit(ended)
    lab.submit(endless)

    def given_up() -> bool:
        states = {state["name"]: state for state in lab[0].collect("state", "states")}
        return all(_state_of(states, name) == "loaded/failed/failed" for name in ended)

    wait("systemd gives up, and the API shows it", 60, given_up, 0.5)
    time.sleep(30)
    seconds = time.monotonic() - begun
    writes = Counter(change.key.rpartition("/")[2] for change in lab.history() if "/state/" in change.key)
    lab.note(f"most writes in {seconds:.0f} s: {writes.most_common(5)}")
    # A burst at the beginning, and then less than one a second.
    many = [
        oracle.Violation("L3", f"the state of {name} was written {number} times in {seconds:.0f} s")
        for name, number in writes.items()
        if number > (10 if name in ended else 8 + 0.6 * seconds)
    ]
    good = {name: witness() for name in names(3, "t-good-")}
    late = clock()
    lab.submit(good)
    lab.until_active(good, ISOLATED + 2)
    lab.note(f"good units ran {clock() - late:.2f} s after they were submitted")
    require(many, lab.check_history())
