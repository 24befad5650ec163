# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of etcd: F1, F9, F12, F17, F26."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from faults import oracle
from faults.lab import (
    MOVED,
    OUTPUT,
    PREFIX,
    SLACK,
    TTL,
    GuestError,
    Host,
    Lab,
    clock,
    inventory,
    names,
    on,
    play,
    wait,
    witness,
)
from faults.oracle import Call, Violation, Wanted, require

from flotilla_fleet.etcd import Compacted, Etcd, EtcdError, op_delete, op_put, prefix_end


@dataclass
class Writer:
    """Writes units through all hosts in turn, so many a second, and remembers every call; units are not started."""

    lab: Lab
    rate: float
    first: int = 0
    """The number of the first write, so that no two writers of one test write the same."""
    calls: list[Call] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Writer:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        number = self.first
        while not self._stop.wait(1 / self.rate):
            host = self.lab.hosts[number % len(self.lab.hosts)]
            unit, tag = f"t-w-{number % 5}.service", f"TAG={number:06d}."
            options = [
                {"section": "Service", "name": "ExecStart", "value": "/bin/true"},
                {"section": "Service", "name": "Environment", "value": tag},
            ]
            called = clock()
            try:
                answer = host.api("PUT", f"/fleet/v1/units/{unit}", {"desiredState": "inactive", "options": options})
                status = answer.status
            except GuestError:
                status = 0
            self.calls.append(Call(unit, tag, called, clock(), status))
            number += 1

    def longest_outage(self) -> float:
        """Seconds from the first call that failed to the next good answer, the longest."""
        longest, since = 0.0, None
        for call in self.calls:
            if 200 <= call.status < 300:
                if since is not None:
                    longest = max(longest, call.returned - since)
                since = None
            elif since is None:
                since = call.called
        return longest if since is None else max(longest, clock() - since)


@pytest.mark.parametrize("times", [int(os.environ.get("FAULTS_F1", "10"))])
def test_f1_killing_etcds_leader_again_and_again_touches_no_unit(lab: Lab, times: int) -> None:
    units = {name: witness() for name in names(12)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    with Writer(lab, 5) as writer:
        for number in range(times):
            begun = time.monotonic()
            leader = lab.etcd_leader()
            leader.signal("etcd", signal.SIGKILL)
            lab.note(f"{number + 1}: killed etcd on {leader}, which led")
            time.sleep(max(0.0, 20 - (time.monotonic() - begun)))
    lab.whole()
    good = sum(200 <= call.status < 300 for call in writer.calls)
    outage = writer.longest_outage()
    lab.note(f"{good} of {len(writer.calls)} writes were acknowledged; the API was away for at most {outage:.2f} s")
    assert good > len(writer.calls) / 2
    runs, history = lab.runs(), lab.history()
    wanted = {name: Wanted("launched") for name in units}
    wanted |= {f"t-w-{number}.service": Wanted("inactive") for number in range(5)}
    slow = [Violation("S5", f"the API was away for {outage:.2f} s")] if outage > 5 + SLACK else []
    require(
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(runs, dict.fromkeys(units, 1)),
        oracle.check_acknowledged(writer.calls, history, PREFIX),
        slow,
        lab.check_converged(wanted),
        lab.check_history(),
    )


# -- another registry ----------------------------------------------------------

RESTORE = """
systemctl stop etcd
rm -rf /var/lib/etcd.restored
set -a; . /etc/flotilla/etcdctl.env; ETCDCTL_API=3; set +a
etcdctl snapshot restore /root/snapshot --name {name} --data-dir /var/lib/etcd.restored \\
  --initial-cluster {cluster} --initial-cluster-token flotilla --initial-advertise-peer-urls https://{address}:2380
rm -rf /var/lib/etcd/member && mv /var/lib/etcd.restored/member /var/lib/etcd/ && chown -R etcd:etcd /var/lib/etcd
"""


def _restore(lab: Lab, snapshot: bytes) -> None:
    """Put the snapshot in place on all members, and start them."""
    together = ",".join(f"{host.name}=https://{host.address}:2380" for host in lab.hosts)

    def one(host: Host) -> None:
        (host.root / "root/snapshot").write_bytes(snapshot)
        host.run(RESTORE.format(name=host.name, cluster=together, address=host.address), timeout=90)

    lab.each(lambda host: host.run("systemctl stop etcd"))
    lab.each(one)
    lab.each(lambda host: host.run("systemctl start etcd", timeout=90))


def _is_frozen(host: Host) -> bool:
    answer = host.api("GET", "/fleet/v1/units")
    return answer.status == 503 and "fleetd --accept-registry" in answer.message


def test_f9_an_older_snapshot_freezes_all_until_it_is_accepted(lab: Lab) -> None:
    early = {name: witness() for name in names(4)}
    late = {name: witness() for name in names(4, "t-late-")}
    lab.submit(early)
    lab.until_active(early)
    lab[0].etcdctl("snapshot save /root/snapshot.db >/dev/null 2>&1", local=True)
    snapshot = (lab[0].root / "root/snapshot.db").read_bytes()
    lab.submit(late)
    lab.until_active(late)
    time.sleep(2)
    require(lab.check_history())
    before = lab.invocations()
    lab.stop_recording()  # what it followed ends here
    _restore(lab, snapshot)
    lab.note("etcd is restored")
    for host in lab.hosts:
        wait(f"{host} says that it is frozen", 30, lambda h=host: _is_frozen(h))
    # Nor does a fleetd believe it that is started now.
    for host in lab.hosts:
        host.run("systemctl restart fleet", timeout=60)
    time.sleep(3 * TTL)
    assert all(_is_frozen(host) for host in lab.hosts)
    told = lab[1].run("fleetctl list-units 2>&1 || :")
    assert "fleetd --accept-registry" in told, told
    lives = dict.fromkeys([*early, *late], 1)
    require(oracle.check_same(before, lab.invocations()), oracle.check_lives(lab.runs(), lives))

    lab.each(lambda host: host.run("fleetd --accept-registry"))
    lab.note("accepted")
    lab.whole()
    wanted = {name: Wanted("launched") for name in early}
    require(lab.check_converged(wanted, 60))
    kept = {key: value for key, value in before.items() if key.partition("/")[2] in early}
    require(oracle.check_same(kept, lab.invocations()))
    lab.submit({"t-new.service": witness()})
    lab.until_active(["t-new.service"])


WIPE = """
rm -rf /var/lib/etcd/member
install -m 600 /dev/null /etc/flotilla/etcd-bootstrap.env
echo 'FLOTILLA_ETCD_BOOTSTRAP="--initial-cluster={cluster} --initial-cluster-state=new {token}"' \
  >/etc/flotilla/etcd-bootstrap.env
"""


def _wipe(lab: Lab) -> None:
    """Make all members new and empty, as the role does on hosts without data, under a new token."""
    together = ",".join(f"{host.name}=https://{host.address}:2380" for host in lab.hosts)
    token = f"--initial-cluster-token=flotilla-{int(time.time())}"
    lab.each(lambda host: host.run("systemctl stop etcd"))
    lab.each(lambda host: host.run(WIPE.format(cluster=together, token=token)))
    lab.each(lambda host: host.run("systemctl start etcd", timeout=90))


def test_f9_a_wiped_etcd_freezes_all_until_it_is_accepted(lab: Lab) -> None:
    """All members are new and empty, which looks like an owner who destroyed every unit."""
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    time.sleep(2)
    require(lab.check_history())
    before = lab.invocations()
    lab.stop_recording()  # what it followed ends here
    _wipe(lab)
    lab.note("etcd is empty")
    for host in lab.hosts:
        wait(f"{host} says that it is frozen", 30, lambda h=host: _is_frozen(h))
    time.sleep(3 * TTL)
    assert all(_is_frozen(host) for host in lab.hosts)
    assert lab.keys() == {}, "a frozen machine has written"
    require(oracle.check_same(before, lab.invocations()), oracle.check_lives(lab.runs(), dict.fromkeys(units, 1)))
    lab.each(lambda host: host.run("fleetd --accept-registry"))
    lab.note("accepted")
    # a new etcd has no users either
    play(inventory(), OUTPUT / "users.log")
    lab.whole()
    # Now it is the owner's word that there are no units.
    require(lab.check_converged({}, 60))
    lab.submit({"t-new.service": witness()})
    lab.until_active(["t-new.service"])


def test_f9_another_prefix_freezes_a_machine(lab: Lab) -> None:
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    host = lab[2]
    conf = host.root / "etc/fleet/fleet.conf"
    text = conf.read_text()
    try:
        conf.write_text(text.replace(f"etcd_key_prefix={PREFIX}", "etcd_key_prefix=/elsewhere/"))
        assert conf.read_text() != text
        host.run("systemctl restart fleet", timeout=60)
        wait("it says so", 20, lambda: _is_frozen(host))
        assert "etcd_key_prefix is /elsewhere/" in host.api("GET", "/fleet/v1/units").message
        mine = {key: value for key, value in before.items() if key.startswith(f"{host}/")}
        time.sleep(1)
        require(oracle.check_same(mine, lab.invocations()))
    finally:
        conf.write_text(text)
        host.run("systemctl restart fleet", timeout=60)
    require(lab.check_converged({name: Wanted("launched") for name in units}, 60))


# -- no space ------------------------------------------------------------------


def _set_quota(lab: Lab, size: int) -> None:
    """Give every member another quota, one member after the other."""
    for host in lab.hosts:
        unit = (host.root / "etc/systemd/system/etcd.service").read_text()
        lines = unit.replace("\\\n", "").splitlines()
        start = next(line for line in lines if line.startswith("ExecStart="))
        words = [f"--quota-backend-bytes={size}" if "quota-backend" in word else word for word in start.split()]
        folder = host.root / "run/systemd/system/etcd.service.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "quota.conf").write_text("[Service]\nExecStart=\n" + " ".join(words) + "\n")
        host.run("systemctl daemon-reload && systemctl restart etcd", timeout=90)
        wait(f"etcd on {host}", 30, lambda h=host: "is healthy" in h.etcdctl("endpoint health 2>&1", local=True))


def _forget_quota(lab: Lab) -> None:
    for host in lab.hosts:
        host.run("rm -f /run/systemd/system/etcd.service.d/quota.conf; systemctl daemon-reload; systemctl restart etcd")
    lab.whole()


async def _fill(client: Etcd) -> None:
    """Write until etcd has no space."""
    for number in range(400):
        try:
            await client.txn([], [op_put(f"/fill/{number % 7}", "x" * 2**18)])
        except EtcdError as exc:
            if "space" in str(exc):
                return
            raise
    raise AssertionError("etcd took everything")


def test_f12_without_space_nothing_stops_and_after_the_cure_all_is_well(lab: Lab) -> None:
    no_space(lab)


def no_space(lab: Lab) -> None:
    """The body of F12."""
    _set_quota(lab, 16 * 2**20)
    try:
        lab.whole()
        units = {name: witness("OnPartition=stop\n" if number % 2 else "") for number, name in enumerate(names(6))}
        lab.submit(units)
        lab.until_active(units)
        before = lab.invocations()
        lab.etcd(_fill)
        full = clock()
        lab.note("etcd has no space")
        leases = _leases(lab)
        answer = lab[1].api("PUT", "/fleet/v1/units/t-new.service", _body(witness()))
        assert answer.status in (503, 507), answer
        assert "etcdctl alarm disarm" in answer.message
        lab[2].signal("fleet", signal.SIGKILL)
        lab[1].run("systemctl restart fleet", timeout=60)
        time.sleep(3 * TTL)
        runs = lab.runs()
        during = [
            *oracle.check_same(before, lab.invocations()),
            *oracle.check_gap(runs, units, full - 1, clock() - 1, 1.5, "S3"),
        ]
        if _leases(lab) != leases:
            during.append(Violation("S3", f"machines had leases {leases} and have {_leases(lab)}"))
        shown = lab[0].api("GET", "/fleet/v1/machines")
        if shown.status != 200 or len(shown.body.get("machines", [])) != 3:
            during.append(Violation("L1", f"the API shows {shown.body} as machines"))
        _cure(lab)
        lab.note("etcd has space again")
        lab.whole()
        lab.submit({"t-new.service": witness()})
        lab.until_active(["t-new.service"])
        time.sleep(TTL)
        wanted = {name: Wanted("launched") for name in [*units, "t-new.service"]}
        gone = [
            Violation("S3", f"revision {change.revision}: {change.key} left etcd")
            for change in lab.history()
            if "/presence/" in change.key and change.value is None
        ]
        require(
            during,
            gone,
            oracle.check_same(before, lab.invocations()),
            oracle.check_lives(lab.runs(), dict.fromkeys(units, 1)),
            lab.check_converged(wanted),
            lab.check_history(),
        )
    finally:
        _cure(lab)
        _forget_quota(lab)


def _cure(lab: Lab) -> None:
    """What the API tells to do: compact, defragment, disarm."""

    async def clear(client: Etcd) -> int:
        return (await client.range("/fill/")).revision

    revision = lab.etcd(clear)
    lab[0].etcdctl(f"compact {revision} >/dev/null", check=False)
    for host in lab.hosts:
        host.etcdctl("defrag", timeout=60, local=True)
    lab[0].etcdctl("alarm disarm")

    async def remove(client: Etcd) -> None:
        await client.txn([], [op_delete("/fill/", prefix_end("/fill/"))])

    lab.etcd(remove)


def _body(text: str) -> dict[str, object]:
    from flotilla_fleet.unitfile import parse_unit

    return {"desiredState": "launched", "options": [option._asdict() for option in parse_unit(text)]}


def _leases(lab: Lab) -> dict[str, int]:
    """Machine to the lease that its presence hangs on."""
    listing = lab.etcd(lambda client: client.prefix(f"{PREFIX}presence/"))
    return {kv.key.rpartition("/")[2]: kv.lease for kv in listing.kvs}


# -- compaction ----------------------------------------------------------------


def _compact_for(lab: Lab, seed: random.Random, rate: float, number: int) -> Writer:
    """Compact once a second while units are written.

    Meanwhile one machine is cut off, gets a unit and loses one, etcd forgets how that came, and the machine's
    connections end: its watches begin anew at a revision that is gone, and a new listing must tell.
    """
    stop = threading.Event()

    def compact() -> None:
        while not stop.wait(1.0):
            with contextlib.suppress(EtcdError):
                lab.etcd(_compact(lab))

    thread = threading.Thread(target=compact, daemon=True)
    # It must not be taken for dead, nor take the engine with it: the cut is as short as can be.
    host = seed.choice(lab.others(lab.etcd_leader(), lab.engine_leader()))
    others = lab.others(host)
    lab.submit({f"t-old-{number}.service": witness(on(host))})
    lab.until_active([f"t-old-{number}.service"])
    with Writer(lab, rate, number * 1000) as writer:
        thread.start()
        time.sleep(1.0)
        lab.cut(host)
        lab.submit({f"t-cut-{number}.service": witness(on(host))}, through=others[0])
        lab.destroy(f"t-old-{number}.service", through=others[0])
        wait("both are written", 10, lambda: lab.etcd(lambda client: _is_told(client, host, number), *others), 0.02)
        lab.etcd(_compact(lab), *others)
        host.run("ss --kill --no-header state established '( dport = :2379 )'")
        lab.heal()
        lab.until_active([f"t-cut-{number}.service"])
        time.sleep(1.0)
        stop.set()
        thread.join(20)
    return writer


async def _is_told(client: Etcd, host: Host, number: int) -> bool:
    """Whether the engine has written what a machine shall do now."""
    listing = await client.prefix(f"{PREFIX}assign/{host.machine}/")
    told = {kv.key.rpartition("/")[2] for kv in listing.kvs}
    return f"t-cut-{number}.service" in told and f"t-old-{number}.service" not in told


def _compact(lab: Lab) -> Callable[[Etcd], Awaitable[None]]:
    """Forget everything up to what the recorder has seen: the oracle needs a history without holes."""

    async def compact(client: Etcd) -> None:
        assert lab.recorder is not None
        revision = min((await client.range("/")).revision, lab.recorder._revision)
        with contextlib.suppress(Compacted):  # nothing was written since the last time
            await client._call("/v3/kv/compaction", {"revision": str(revision)})

    return compact


@pytest.mark.quick
def test_f17_compaction_under_watch(lab: Lab, seed: random.Random) -> None:
    _compaction(lab, seed, rounds=2, rate=10)


def test_f17_compaction_for_long(lab: Lab, seed: random.Random) -> None:
    _compaction(lab, seed, rounds=10, rate=20)


def _compaction(lab: Lab, seed: random.Random, rounds: int, rate: float) -> None:
    units = {name: witness() for name in names(4)}
    lab.submit(units)
    lab.until_active(units)
    before = lab.invocations()
    since = lab[0].run("date +%s").strip()
    calls: list[Call] = []
    for number in range(rounds):
        writer = _compact_for(lab, seed, rate, number)
        calls += writer.calls
        good = sum(200 <= call.status < 300 for call in writer.calls)
        lab.note(f"round {number}: {good} of {len(writer.calls)} writes acknowledged")
    wanted = {name: Wanted("launched") for name in [*units, *(f"t-cut-{number}.service" for number in range(rounds))]}
    wanted |= {name: Wanted("inactive") for name in {call.unit for call in calls}}
    told = lab.each(lambda host: host.run(f"journalctl -u fleet -o cat --since @{since}"))
    lists = sum(text.count("reading the assignments again") for text in told.values())
    lab.note(f"agents listed their assignments again {lists} times")
    assert lists, "no watch met a compaction"
    history = lab.history()
    require(
        lab.check_converged(wanted, 30),
        oracle.check_same(before, lab.invocations()),
        oracle.check_lives(lab.runs(), dict.fromkeys(wanted.keys() - {call.unit for call in calls}, 1)),
        oracle.check_acknowledged(calls, history, PREFIX),
        lab.check_history(),
    )


# -- garbage -------------------------------------------------------------------

GOOD = '{"desired":"launched","options":[["Service","ExecStart","/bin/sleep infinity"]]}'


@pytest.mark.quick
def test_f26_garbage_in_every_kind_of_key(lab: Lab, seed: random.Random) -> None:
    """What a record that cannot be read concerns stays as it is; all others are served."""
    units = {name: witness() for name in names(6)}
    lab.submit(units)
    placed = {name: hosts[0] for name, hosts in lab.until_active(units).items()}
    lab.submit({"t-g.service": witness("Global=true\n")})
    lab.until_active(["t-g.service"], copies=3)
    before = lab.invocations()
    pids = lab.each(lambda host: host.main_pid("fleet"))
    first = placed["t-02.service"].machine
    keys = [
        "unit/t-00.service",
        "target/t-01.service",
        f"assign/{first}/t-02.service",
        f"state/{placed['t-03.service'].machine}/t-03.service",
        f"presence/{lab[1].machine}",
        f"metadata/{lab[1].machine}/colour",
        "move/t-04.service",
        f"ask/{lab[2].machine}/{seed.randrange(10**6)}",
        f"assign/{lab[2].machine}/../../etc/passwd",
        f"assign/{lab[2].machine}/t-template@.service",
        "unit/no such name",
        "nothing/of/ours",
        "leader",
    ]

    async def scatter(client: Etcd) -> None:
        for key in keys:
            # Where the name itself is the trouble, the record is a good one.
            good = "passwd" in key or "@" in key or "such" in key
            value = GOOD if good else seed.randbytes(seed.randrange(1, 200))
            await client.txn([], [op_put(PREFIX + key, value)])  # type: ignore[arg-type]

    lab.etcd(scatter)
    lab.note(f"garbage in {len(keys)} keys")
    lab.submit({"t-new.service": witness()}, through=lab[2])
    lab.until_active(["t-new.service"], 5 + 5 + SLACK)
    time.sleep(TTL + 1)
    answer = lab[0].api("GET", "/fleet/v1/units/t-00.service")
    assert answer.status == 503
    assert "unit/t-00.service is" in answer.message or "unit/t-00.service" in answer.message
    shown = {state["name"]: state for state in lab[0].collect("state", "states")}
    assert "not usable" in shown["t-02.service"].get("error", "")
    kept = [
        *oracle.check_same(before, lab.invocations()),
        *oracle.check_lives(lab.runs(), {**dict.fromkeys(units, 1), "t-g.service": 3}),
    ]
    if lab.each(lambda host: host.main_pid("fleet")) != pids:
        kept.append(Violation("S4", "fleetd was started anew"))
    assert (lab[2].root / "etc/passwd").read_text().startswith("root:")
    # The operator removes what nobody mends by himself, and submits what is lost.
    mended = ("presence/", "state/", "leader")

    async def tidy(client: Etcd) -> None:
        for key in keys:
            if not key.startswith(mended) and not key.startswith(("unit/t-", "assign/" + first)):
                await client.txn([], [op_delete(PREFIX + key)])

    lab.etcd(tidy)
    lab.destroy("t-00.service")
    lab.submit({"t-00.service": witness()})
    require(kept)
    wanted = {name: Wanted("launched") for name in [*units, "t-new.service"] if name != "t-02.service"}
    lab.etcd(lambda client: client.txn([], [op_delete(f"{PREFIX}assign/{first}/t-02.service")]))
    wanted |= {"t-02.service": Wanted("launched"), "t-g.service": Wanted("launched", 3)}
    require(lab.check_converged(wanted, MOVED + 20))
