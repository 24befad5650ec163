# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three local hosts with a fleet, and everything that is done to them.

The hosts are reached past their own network: commands enter their namespaces, the API is asked through its socket as it
shows below /proc, and the witness log is read from their disks. So what a fault cuts off, the test still sees.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from localhosts import cluster as clusters
from localhosts import guest, network
from localhosts.plan import HostsError, veth_name
from localhosts.system import Progress, write_file

from flotilla_fleet.etcd import Compacted, Etcd, EtcdError
from flotilla_fleet.registry import Keys
from flotilla_fleet.unitfile import parse_unit

from . import oracle
from .oracle import Change, Run, Wanted

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
OUTPUT = ROOT / "tests/output/faults"
CLUSTER = os.environ.get("FAULTS_CLUSTER", "faults")
"""Two runs at one time need two names."""
PREFIX = Keys().prefix

TTL = 6
"""Seconds that a machine's lease lasts."""
INTERVAL = 1
GRACE = 5
"""Seconds that a lost machine is given to stop its OnPartition=stop units."""
SLACK = float(os.environ.get("FAULTS_SLACK", "3"))
"""Seconds that a machine with two processors and three hosts on it may be late."""
MOVED = TTL + 2 * INTERVAL + SLACK
"""L2: a unit of a dead machine is elsewhere after so many seconds."""

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_ETCDCTL = "set -a; . /etc/flotilla/etcdctl.env; ETCDCTL_API=3; set +a;"
_PLAY_TIMEOUT = 900.0
DROPIN = "run/systemd/system/fleet.service.d/variant.conf"


def clock() -> float:
    """The clock of the witnesses: seconds since this machine, on which all hosts are, was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class GuestError(Exception):
    """A command on a host failed; the text has its output."""


def wait(what: str, seconds: float, ready: Callable[[], Any], pause: float = 0.1) -> Any:
    """Ask ``ready`` until it says something; AssertionError after ``seconds``. Its errors count as no."""
    begun, problem = time.monotonic(), ""
    while True:
        try:
            found = ready()
            if found:
                return found
            problem = ""
        except (OSError, GuestError, http.client.HTTPException, EtcdError, ValueError) as exc:
            problem = f": {exc}"
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}{problem}")
        time.sleep(pause)


# -- one host --------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


@dataclass
class Answer:
    """What the API said: ``status`` 0 when nothing came back in time."""

    status: int
    body: Any
    seconds: float

    @property
    def message(self) -> str:
        return str(self.body.get("error", {}).get("message", "")) if isinstance(self.body, dict) else ""


class Host:
    """One host; ``place`` says where its disk and processes are on this machine."""

    def __init__(self, name: str, address: str, machine: str, cable: str) -> None:
        self.name = name
        self.address = address
        self.machine = machine
        self.cable = cable
        self.place = guest.Place(CLUSTER, name)
        self._init = 0

    def __repr__(self) -> str:
        return self.name

    @property
    def init(self) -> int:
        """The process id of the host's process 1 here. Raises :class:`GuestError` when the host is off."""
        if self._init:
            known = guest.inspect(self._init)
            if known is not None and known.inner_pid == 1:
                return self._init
        found = guest.life(self.place).init
        if found is None:
            raise GuestError(f"{self.name} is off")
        self._init = found.pid
        return found.pid

    @property
    def is_on(self) -> bool:
        try:
            return bool(self.init)
        except GuestError:
            return False

    @property
    def root(self) -> Path:
        """Its file system as its own processes see it, /run included."""
        return Path(f"/proc/{self.init}/root")

    @property
    def disk(self) -> Path:
        """What was written to its disk; can be read while it is off, too."""
        return self.place.disk / "upper"

    def run(self, script: str, timeout: float = 60.0, check: bool = True, stdin: str = "") -> str:
        """Run a shell script on the host without its network; returns what it printed."""
        argv = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "--", "/bin/bash", "-c", script]
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                cwd="/",
                env=_ENVIRONMENT,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            raise GuestError(f"on {self.name}, {script!r} did not end within {timeout:.0f} s") from None
        if check and done.returncode:
            raise GuestError(f"on {self.name}, {script!r} failed ({done.returncode}): {done.stderr.strip()[-500:]}")
        return done.stdout

    def etcdctl(self, arguments: str, timeout: float = 30.0, check: bool = True, local: bool = False) -> str:
        """etcdctl on the host; ``local``: only its own member is asked."""
        where = "ETCDCTL_ENDPOINTS=https://127.0.0.1:2379 " if local else ""
        return self.run(f"{_ETCDCTL} ETCDCTL_USER=root:{root_password()} {where}etcdctl {arguments}", timeout, check)

    def main_pid(self, service: str) -> int:
        """The process id, here, of a service's main process; 0 when it has none."""
        inner = int(self.run(f"systemctl show -P MainPID {service}").strip() or 0)
        if not inner:
            return 0
        for pid in guest.processes(self.place):
            seen = guest.inspect(pid)
            if seen is not None and seen.inner_pid == inner and self._is_own(pid):
                return pid
        return 0

    def _is_own(self, pid: int) -> bool:
        """Of the host itself, not of a container in it."""
        try:
            return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self.init}/ns/pid")
        except OSError:
            return False

    def signal(self, service: str, number: signal.Signals) -> int:
        """Send a signal to a service's main process; returns its process id here."""
        pid = self.main_pid(service)
        if not pid:
            raise GuestError(f"{service} does not run on {self.name}")
        os.kill(pid, number)
        return pid

    def continue_all(self) -> None:
        """Let every stopped process of the host go on."""
        for pid in guest.processes(self.place):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
                    os.kill(pid, signal.SIGCONT)

    def units(self) -> dict[str, tuple[str, str]]:
        """Test units that systemd knows here: name to (active state, InvocationID)."""
        text = self.run("systemctl show --property=Id,ActiveState,InvocationID 't-*'")
        found = {}
        for block in text.split("\n\n"):
            values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if values.get("Id"):
                found[values["Id"]] = (values["ActiveState"], values.get("InvocationID", ""))
        return found

    def active(self) -> dict[str, str]:
        return {name: state for name, (state, _invocation) in self.units().items()}

    def files(self) -> list[str]:
        """Unit files that fleet has here."""
        folder = self.root / "run/fleet/units"
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))

    def api(self, method: str, path: str, body: object = None, timeout: float = 15.0) -> Answer:
        """One request to the host's own fleetd."""
        begun = time.monotonic()
        connection = _UnixConnection(str(self.root / "run/fleet.sock"), timeout)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            text = answer.read()
            try:
                found: Any = json.loads(text) if text else None
            except ValueError:
                found = text.decode("utf-8", "replace")
            return Answer(answer.status, found, time.monotonic() - begun)
        except (OSError, http.client.HTTPException):
            return Answer(0, None, time.monotonic() - begun)
        finally:
            connection.close()

    def collect(self, path: str, field_name: str) -> list[dict[str, Any]]:
        """All pages of a list of the API. Raises :class:`GuestError` for anything but an answer."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            answer = self.api("GET", f"/fleet/v1/{path}" + (f"?nextPageToken={quote(token)}" if token else ""))
            if answer.status != 200:
                raise GuestError(f"GET {path} on {self.name}: {answer.status} {answer.message}")
            found += answer.body.get(field_name, [])
            token = answer.body.get("nextPageToken", "")
            if not token:
                return found


async def _close(client: Etcd) -> None:
    await client.close()
    await asyncio.sleep(0.05)  # TLS says goodbye in the background


# -- what etcd went through ---------------------------------------------------------


class Recorder:
    """Follows every change of fleet's keys, past any cut between the hosts, in a thread of its own."""

    def __init__(self, client: Callable[[], Etcd]) -> None:
        self._client = client
        self.changes: list[Change] = []
        self.hole = ""
        """Why the history is not whole, or ""."""
        self._revision = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._main, name="recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(20):
            self.stop()
            raise AssertionError("the recorder cannot read etcd")

    def stop(self) -> None:
        task = self._task
        if task is not None:
            self._loop.call_soon_threadsafe(task.cancel)
        self._thread.join(20)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._record())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _record(self) -> None:
        client = self._client()
        try:
            await self._begin(client)
            self._ready.set()
            while True:
                await self._follow(client)
        finally:
            await _close(client)

    async def _begin(self, client: Etcd) -> None:
        while True:
            try:
                listing = await client.prefix(PREFIX)
                break
            except EtcdError:
                await asyncio.sleep(0.2)
        self.changes += [Change(kv.mod, kv.key, kv.value) for kv in listing.kvs]
        self._revision = listing.revision

    async def _follow(self, client: Etcd) -> None:
        try:
            async for batch in client.watch(PREFIX, self._revision + 1):
                for event in batch:
                    self.changes.append(Change(event.revision, event.key, event.kv.value if event.kv else None))
                    self._revision = max(self._revision, event.revision)
        except Compacted as exc:
            self.hole = str(exc)
            await self._begin(client)
        except EtcdError:
            await asyncio.sleep(0.2)


# -- the cluster --------------------------------------------------------------------


@dataclass
class Lab:
    """The hosts and what a test does with them. ``begun`` is when the running test began, on the witnesses' clock."""

    hosts: list[Host]
    begun: float = 0.0
    recorder: Recorder | None = None
    notes: list[str] = field(default_factory=list)
    _offsets: dict[str, int] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Remember and print what the test did and saw, with the time."""
        line = f"{clock() - self.begun:7.2f} {text}"
        self.notes.append(line)
        print(line, flush=True)

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def by_machine(self, machine: str) -> Host:
        return next(host for host in self.hosts if host.machine == machine)

    def others(self, *without: Host) -> list[Host]:
        return [host for host in self.hosts if host not in without]

    def each(self, do: Callable[[Host], Any], hosts: Iterable[Host] | None = None) -> dict[str, Any]:
        """Call ``do`` for all hosts at once; host name to result."""
        chosen = list(self.hosts if hosts is None else hosts)
        with ThreadPoolExecutor(max_workers=8) as pool:
            return dict(zip([host.name for host in chosen], pool.map(do, chosen), strict=True))

    # -- etcd

    def client(self, *hosts: Host) -> Etcd:
        """A client of etcd, its user root with the certificate of the first host."""
        pki = self.hosts[0].disk / "etc/flotilla/pki"
        context = ssl.create_default_context(cafile=str(pki / "etcd-client-ca.crt"))
        context.load_cert_chain(pki / "etcd-client.crt", pki / "etcd-client.key")
        urls = [f"https://{host.address}:2379" for host in hosts or self.hosts]
        return Etcd(urls, context, timeout=3.0, username="root", password=root_password())

    def etcd(self, do: Callable[[Etcd], Any], *hosts: Host) -> Any:
        """Run one coroutine with a client of etcd; returns what it returns."""

        async def main() -> Any:
            client = self.client(*hosts)
            try:
                return await do(client)
            finally:
                await _close(client)

        return asyncio.run(main())

    def keys(self, kind: str = "") -> dict[str, bytes]:
        """Fleet's keys of one kind (all): name below the prefix to value."""
        listing = self.etcd(lambda client: client.prefix(PREFIX + (f"{kind}/" if kind else "")))
        return {kv.key.removeprefix(PREFIX): kv.value for kv in listing.kvs}

    def etcd_leader(self) -> Host:
        for host in self.hosts:
            with contextlib.suppress(GuestError, ValueError, KeyError, IndexError):
                text = host.etcdctl("endpoint status --write-out json", local=True)
                status = json.loads(text)[0]["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    return host
        raise AssertionError("no member of etcd leads")

    def engine_leader(self) -> Host:
        text = self.keys().get("leader", b"")
        if not text:
            raise AssertionError("no engine leads")
        return self.by_machine(json.loads(text)["id"])

    # -- units

    def submit(self, units: Mapping[str, str], desired: str = "launched", through: Host | None = None) -> None:
        """Put units by the API and insist on a good answer."""
        host = through or self.hosts[0]
        for name, text in units.items():
            options = [option._asdict() for option in parse_unit(text)]
            answer = host.api("PUT", f"/fleet/v1/units/{quote(name)}", {"desiredState": desired, "options": options})
            assert answer.status in (201, 204), f"PUT {name}: {answer.status} {answer.message}"

    def desire(self, name: str, desired: str, through: Host | None = None) -> None:
        host = through or self.hosts[0]
        answer = host.api("PUT", f"/fleet/v1/units/{quote(name)}", {"desiredState": desired})
        assert answer.status == 204, f"PUT {name}: {answer.status} {answer.message}"

    def destroy(self, name: str, through: Host | None = None) -> None:
        answer = (through or self.hosts[0]).api("DELETE", f"/fleet/v1/units/{quote(name)}")
        assert answer.status == 204, f"DELETE {name}: {answer.status} {answer.message}"

    def active(self) -> dict[str, dict[str, str]]:
        """Host to test unit to active state, as systemd says; hosts that are off have none."""
        return self.each(lambda host: host.active() if host.is_on else {})

    def invocations(self) -> dict[str, str]:
        """InvocationID of what is active, by "host/unit"."""
        found = self.each(lambda host: host.units() if host.is_on else {})
        return {
            f"{name}/{unit}": invocation
            for name, units in found.items()
            for unit, (state, invocation) in units.items()
            if state == "active"
        }

    def shown(self, through: Host | None = None) -> dict[str, dict[str, str]]:
        """Host to unit to active state, as the API says."""
        found: dict[str, dict[str, str]] = {host.name: {} for host in self.hosts}
        for state in (through or self.hosts[0]).collect("state", "states"):
            host = self.by_machine(state["machineID"]).name
            found[host][state["name"]] = state.get("systemdActiveState", "")
        return found

    def where(self, name: str) -> list[Host]:
        """Hosts on which systemd runs the unit."""
        return [host for host in self.hosts if host.is_on and host.active().get(name) == "active"]

    def until_active(self, names: Iterable[str], seconds: float = 30.0, copies: int = 1) -> dict[str, list[Host]]:
        """Wait until each unit is active on so many hosts; unit to hosts."""
        wanted = sorted(names)
        last: dict[str, list[Host]] = {}

        def ready() -> bool:
            active = self.active()
            for name in wanted:
                last[name] = [host for host in self.hosts if active[host.name].get(name) == "active"]
            return all(len(hosts) == copies for hosts in last.values())

        try:
            wait(f"{len(wanted)} units active", seconds, ready, 0.2)
        except AssertionError as exc:
            wrong = {name: hosts for name, hosts in last.items() if len(hosts) != copies}
            raise AssertionError(f"{exc}; not so: {wrong}") from None
        return last

    # -- witnesses

    def runs(self) -> list[Run]:
        """All lives of units since the test began."""
        lines = []
        for host in self.hosts:
            path = host.disk / "var/lib/witness/log"
            if path.exists():
                with path.open("rb") as stream:
                    stream.seek(self._offsets.get(host.name, 0))
                    # the last line may be under way
                    text = stream.read().rpartition(b"\n")[0].decode()
                lines += oracle.parse(text)
        return oracle.runs_of(lines)

    def history(self, seconds: float = 10.0) -> list[Change]:
        """Every change of fleet's keys since the test began, up to now."""
        assert self.recorder is not None
        recorder = self.recorder
        now = self.etcd(lambda client: client.prefix(PREFIX))
        newest = max((kv.mod for kv in now.kvs), default=0)
        wait("the recorder has caught up", seconds, lambda: recorder._revision >= newest or recorder.hole)
        assert not recorder.hole, recorder.hole
        return list(recorder.changes)

    # -- checks

    def unconverged(self, wanted: Mapping[str, Wanted]) -> list[oracle.Violation]:
        files = self.each(lambda host: host.files())
        return list(oracle.check_converged(wanted, self.active(), self.shown(), files))

    def check_converged(self, wanted: Mapping[str, Wanted], seconds: float = 30.0) -> list[oracle.Violation]:
        """L1 within so many seconds: what is wrong after them."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = self.unconverged(wanted)
            except (GuestError, OSError) as exc:
                found = [oracle.Violation("L1", str(exc))]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.3)

    def check_history(self) -> list[oracle.Violation]:
        """S1 and S6 over all that happened."""
        return oracle.check_history(self.history(), PREFIX)

    # -- faults

    def kill(self, host: Host) -> float:
        """Power failure; returns when, on the witnesses' clock."""
        moment = clock()
        self.note(f"kill {host}")
        clusters.kill_host(CLUSTER, host.name, _Quiet())
        return moment

    def start(self, host: Host) -> None:
        self.note(f"start {host}")
        clusters.start_host(CLUSTER, host.name, 60.0, _Quiet())

    def cut(self, host: Host, *peers: Host, one_way: bool = False) -> float:
        """Drop everything between a host and others (all); returns when."""
        self.note(f"cut {host} from {', '.join(map(str, peers)) or 'all'}{' (one way)' if one_way else ''}")
        chosen = peers or tuple(self.others(host))
        pairs = [(host.cable, peer.cable) for peer in chosen]
        if not one_way:
            pairs += [(there, here) for here, there in pairs]
        network.cut(CLUSTER, pairs)
        return clock()

    def heal(self) -> float:
        self.note("heal")
        network.mend(CLUSTER, [])
        return clock()

    @contextlib.contextmanager
    def fleetd_with(self, *variants: str, keep_fence: bool = True) -> Iterator[None]:
        """Run all fleetds with these modules of ``variants`` until the end of the block."""
        self.note(f"fleetd with {', '.join(variants)}")
        dropin = (
            f"[Service]\nExecStart=\nExecStart=/usr/bin/python3 -I /run/faults/load.py {' '.join(variants)}"
            " -- -config /etc/fleet/fleet.conf\n"
        ) + ("" if keep_fence else "ExecStopPost=\n")

        def install(host: Host) -> None:
            folder = host.root / "run/faults"
            folder.mkdir(exist_ok=True)
            for path in (HERE / "variants").glob("*.py"):
                (folder / path.name).write_text(path.read_text())
            write_file(host.root / DROPIN, dropin)
            host.run("systemctl daemon-reload && systemctl restart fleet")

        try:
            self.each(install)
            self.whole()
            yield
        finally:
            self.each(_remove_variant)

    # -- between tests

    def whole(self, seconds: float = 60.0) -> None:
        """Wait until etcd and fleet are complete: three members, three machines, a leader."""
        members = sorted(host.machine for host in self.hosts)

        def complete() -> bool:
            text = self.hosts[0].etcdctl("endpoint health 2>&1", check=False)
            if text.count("is healthy") != len(self.hosts):
                return False
            for host in self.hosts:
                if sorted(machine["id"] for machine in host.collect("machines", "machines")) != members:
                    return False
            return "leader" in self.keys()

        wait("etcd and fleet are complete", seconds, complete, 0.3)

    def reset(self) -> None:
        """Undo whatever the test before did, and begin to record."""
        self.stop_recording()
        network.mend(CLUSTER, [])
        for host in self.hosts:
            if not host.is_on:
                clusters.start_host(CLUSTER, host.name, 60.0, _Quiet())
            host.continue_all()
        self.each(_repair)
        self.whole()
        self._empty()
        self.begun = clock()
        self.notes = []
        for host in self.hosts:
            path = host.disk / "var/lib/witness/log"
            self._offsets[host.name] = path.stat().st_size if path.exists() else 0
        self.recorder = Recorder(self.client)
        self.recorder.start()

    def stop_recording(self) -> None:
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.stop()

    def _empty(self) -> None:
        """Remove all units and wait until nothing of them is left."""
        kinds = ("unit", "move", "drain", "metadata")

        async def clear(client: Etcd) -> None:
            from flotilla_fleet.etcd import op_delete, prefix_end

            await client.txn([], [op_delete(PREFIX + f"{kind}/", prefix_end(PREFIX + f"{kind}/")) for kind in kinds])

        self.etcd(clear)

        def gone() -> bool:
            left = [key for key in self.keys() if key.split("/")[0] in ("target", "assign", "state", *kinds)]
            return not left and not any(self.each(lambda host: host.files()).values())

        try:
            wait("nothing is left of the units of the test before", 30, gone, 0.2)
        except AssertionError:
            self._wipe()
            wait("nothing is left of the units of the test before", 30, gone, 0.2)

    def _wipe(self) -> None:
        """When fleet does not clear up by itself any more: stop it, remove everything of it, start it."""
        self.each(lambda host: host.run(_WIPE, timeout=120))

        async def clear(client: Etcd) -> None:
            from flotilla_fleet.etcd import op_delete, prefix_end

            await client.txn([], [op_delete(PREFIX, prefix_end(PREFIX))])

        self.etcd(clear)
        self.each(lambda host: host.run("systemctl start fleet"))
        self.whole()

    def keep(self, name: str) -> Path:
        """Keep everything that tells why a test failed; returns the folder."""
        folder = OUTPUT / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "notes").write_text("\n".join([f"load {os.getloadavg()}", *self.notes]) + "\n")
        with contextlib.suppress(AssertionError, EtcdError, OSError):
            changes = [[c.revision, c.key, None if c.value is None else repr(c.value)] for c in self.history(3)]
            (folder / "history.json").write_text(json.dumps(changes, indent=0))
        since = max(1, int(clock() - self.begun) + 5)
        for host in self.hosts:
            with contextlib.suppress(OSError):
                log = (host.disk / "var/lib/witness/log").read_bytes()[self._offsets.get(host.name, 0) :]
                (folder / f"witness-{host.name}").write_bytes(log)
            with contextlib.suppress(GuestError):
                text = host.run(f"journalctl --no-pager -o short-precise --since '-{since}s'", check=False)
                (folder / f"journal-{host.name}").write_text(text)
                (folder / f"units-{host.name}").write_text(host.run("systemctl list-units --all 't-*'", check=False))
        with contextlib.suppress(EtcdError, OSError):
            text = "\n".join(f"{key} {value!r}" for key, value in sorted(self.keys().items()))
            (folder / "keys").write_text(text + "\n")
        return folder


_WIPE = """
systemctl kill -s KILL fleet; systemctl stop fleet; systemctl stop 't-*'
rm -rf /run/fleet/units /run/fleet/agent; find /run/systemd/system -name 't-*' -exec rm -rf {} +
systemctl daemon-reload; systemctl reset-failed
"""


class _Quiet(Progress):
    """Tells nobody; tests print what they do themselves."""

    def say(self, text: str) -> None:
        pass


def _remove_variant(host: Host) -> None:
    if host.is_on and (host.root / DROPIN).exists():
        (host.root / DROPIN).unlink()
        host.run("systemctl daemon-reload && systemctl restart fleet", timeout=120, check=False)


def _repair(host: Host) -> None:
    """Services on, faults off."""
    _remove_variant(host)
    host.run(
        "umount -l /run/fleet/units 2>/dev/null; rm -f /var/lib/witness/filler;"
        "systemctl reset-failed; systemctl start dbus.socket dbus etcd fleet",
        timeout=120,
        check=False,
    )


# -- making it ----------------------------------------------------------------------


VARIABLES = {
    "fleet_agent_ttl": f"{TTL}s",
    "fleet_engine_reconcile_interval": float(INTERVAL),
    "fleet_extra_settings": {"partition_grace": f"{GRACE}s"},
}


def inventory() -> Path:
    """Where the inventory of the hosts is."""
    return Path("/run") / f"flotilla-{CLUSTER}" / "hosts.yml"


def root_password() -> str:
    """The password of etcd's user root, which the play has kept."""
    return (inventory().parent / ".pki/flotilla/etcd-users/root").read_text().strip()


def make() -> Lab:
    """The cluster: made and deployed with playbooks/site.yml, or what was kept, brought up to date."""
    order = clusters.Order(
        cluster=CLUSTER,
        hosts=3,
        prefix="f-",
        packages="installed",
        inventory=inventory(),
        variables=VARIABLES,
    )
    inventory().parent.mkdir(parents=True, exist_ok=True)
    network.mend(CLUSTER, [])
    cluster = clusters.up(order, _Quiet()).cluster
    hosts = [
        Host(host.name, str(cluster.address(host)), host.machine_id, veth_name(CLUSTER, host.number))
        for host in cluster.hosts
    ]
    lab = Lab(hosts)
    for host in hosts:
        host.continue_all()
        host.run("systemctl is-system-running --wait >/dev/null || :", timeout=120)
    if os.environ.get("FAULTS_PLAY", "1") != "0":
        play(inventory(), OUTPUT / "site.log")
    for host in hosts:
        script = host.root / "usr/local/bin/witness"
        write_file(script, (HERE / "witness.sh").read_text(), 0o755)
        (host.root / "var/lib/witness").mkdir(exist_ok=True)
    return lab


def play(hosts: Path, log: Path) -> None:
    """Run playbooks/site.yml. Raises HostsError when it fails."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    program = Path(sys.executable).parent / "ansible-playbook"
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PATH": f"{program.parent}:{os.environ.get('PATH', os.defpath)}",
    }
    with log.open("wb") as stream:
        done = subprocess.run(
            [str(program), "-i", str(hosts), "playbooks/site.yml"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=_PLAY_TIMEOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise HostsError(f"playbooks/site.yml failed with exit code {done.returncode}; the end of {log}:\n{tail}")


def remove() -> None:
    clusters.down(CLUSTER, True, _Quiet())


# -- units --------------------------------------------------------------------------


def witness(fleet: str = "", service: str = "", slow: int = 0) -> str:
    """A unit that tells when it runs; ``fleet``, ``service``: lines for these sections, ``slow``: seconds to stop."""
    text = f"[Service]\nExecStart=/usr/local/bin/witness %n {slow}\nTimeoutStopSec=20\n{service}"
    return text + (f"[X-Fleet]\n{fleet}" if fleet else "")


LIGHT = "[Service]\nExecStart=/bin/sleep infinity\n"
"""A unit that costs nothing and tells nothing."""


def names(count: int, stem: str = "t-") -> list[str]:
    return [f"{stem}{number:02d}.service" for number in range(count)]


def on(host: Host) -> str:
    """The [X-Fleet] line for a unit that may run on one host only."""
    return f"MachineID={host.machine}\n"


@contextlib.contextmanager
def stopped(host: Host, service: str, seconds: float) -> Iterator[int]:
    """A service's process is paused for so long before the body runs, and goes on after it."""
    pid = host.signal(service, signal.SIGSTOP)
    try:
        time.sleep(seconds)
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
