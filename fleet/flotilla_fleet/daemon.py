# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""fleetd: wires agent, engine and API together and lives until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import grp
import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from . import __version__
from . import etcd as e
from .agent import Agent
from .announce import LEASE_SECONDS, Bulletin
from .api import make_app, make_runner
from .config import Config, ConfigError, Login, load, logins
from .connections import Connections, TlsSite
from .engine import Engine
from .inquiry import AskingRegistry, Desk
from .memory import Memory
from .metrics import Metrics
from .model import LAUNCHED, LOADED, Machine
from .pin import Pin, accept
from .presence import Presence, now, trusted_until
from .registry import Keys
from .systemd import ActiveState, Systemd, SystemdError

log = logging.getLogger("flotilla_fleet.daemon")

DRAIN_SECONDS = 240.0
WATCHDOG_LEAST = 3.0
"""Seconds for which fleetd may not answer systemd, at the least; else half of what its lease lasts."""
FIRST_PASSED_FD = 3
NO_SYSTEMD = "has lost its connection to systemd"


class StartError(Exception):
    """fleetd cannot start; the text says why and what to do."""


def read_machine_id(path: Path = Path("/etc/machine-id")) -> str:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise StartError(f"cannot read {path}: {exc}") from None
    if not re.fullmatch(r"[0-9a-f]{32}", text) or set(text) == {"0"}:
        raise StartError(f"{path} holds {text!r}, not 32 hexadecimal digits: run systemd-machine-id-setup")
    return text


def read_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def default_address() -> str:
    """The IPv4 address from which this machine talks to the world, or ""; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def client_tls(config: Config) -> ssl.SSLContext | None:
    if not any(url.startswith("https:") for url in config.etcd_servers):
        return None
    try:
        context = ssl.create_default_context(cafile=config.etcd_cafile or None)
        if config.etcd_certfile:
            context.load_cert_chain(config.etcd_certfile, config.etcd_keyfile)
    except (OSError, ssl.SSLError) as exc:
        files = f"{config.etcd_cafile}, {config.etcd_certfile}, {config.etcd_keyfile}"
        raise StartError(f"cannot use the TLS files for etcd ({files}): {exc}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_tls(config: Config) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(config.listen_certfile, config.listen_keyfile)
        context.load_verify_locations(config.listen_cafile)
    except (OSError, ssl.SSLError) as exc:
        files = f"{config.listen_cafile}, {config.listen_certfile}, {config.listen_keyfile}"
        raise StartError(f"cannot use the TLS files for listen ({files}): {exc}") from None
    return context


def passed_sockets() -> list[socket.socket]:
    """The sockets that systemd hands over (fleet.socket)."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    os.environ.pop("LISTEN_FDNAMES", None)
    sockets = [socket.socket(fileno=FIRST_PASSED_FD + index) for index in range(count)]
    for item in sockets:
        item.setblocking(False)
        os.set_inheritable(item.fileno(), False)
    return sockets


def notify(message: str) -> None:
    """Tell systemd (Type=notify); nothing happens without it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect("\0" + address[1:] if address[0] == "@" else address)
        channel.sendall(message.encode())


def read_own_cgroup() -> str:
    return Path("/proc/self/cgroup").read_text(encoding="utf-8")


def own_unit(cgroup: str) -> str:
    """The systemd unit that a process with this /proc/self/cgroup belongs to, or ""."""
    found = re.findall(r"/([^/\n]+\.service)", cgroup)
    return found[-1] if found else ""


def must_fence(service_result: str, deadline: float, moment: float) -> bool:
    """Whether a fleetd that ended this way leaves its ``OnPartition=stop`` units to nobody.

    ``deadline`` is until when its lease surely lived and ``moment`` is now, both in seconds since boot. One that ended
    otherwise than by its watchdog is started again at once and looks after its units itself, unless it cannot start.
    """
    if service_result in ("", "success"):
        return False
    return service_result == "watchdog" or deadline <= moment


def fence(memory: Memory, grace: float) -> None:
    """Stop what must not run beside a copy elsewhere: fleetd hangs, and nobody else on this machine will do it.

    What does not stop within half of the ``grace`` (seconds) is killed.
    """
    records = {name: memory.read(name) for name in memory.names("unit-")}
    fenced = {name: r for name, r in records.items() if r.get("fenced") is True and r.get("job") == LAUNCHED}
    stops = {}
    for record_name, record in fenced.items():
        unit = str(record.get("name"))
        log.warning("stopping %s, because fleetd does not look after it", unit)
        stops[record_name] = subprocess.Popen(["systemctl", "stop", "--", unit])
    end = time.monotonic() + grace / 2
    for record_name, process in stops.items():
        unit = str(fenced[record_name]["name"])
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("%s does not stop, killing it", unit)
            subprocess.run(["systemctl", "kill", "-s", "KILL", "--", unit], check=False, timeout=grace / 2)
            process.wait(grace / 2)
        memory.write(record_name, {**fenced[record_name], "job": LOADED})


def metrics_of(engine: Engine, agent: Agent, presence: Presence, client: e.Etcd) -> Metrics:
    """What the parts of a fleetd tell; those of upstream's that mean something here have its names."""
    told = Metrics()
    told.gauge(
        "fleet_engine_leader_start_time",
        "Since when this machine leads, in seconds since the epoch; 0: it does not.",
        lambda: engine.led_since,
    )
    told.counted("fleet_engine_reconcile_count_total", "Plans made while leading.", lambda: engine.plans)
    told.counted("fleet_engine_writes_total", "Transactions with changes of a plan.", lambda: engine.writes)
    told.counted("fleet_etcd_requests_total", "Requests sent to etcd.", lambda: client.requests)
    told.gauge("fleet_machine_present", "1 while this machine is known in etcd.", lambda: bool(presence.lease))
    told.gauge("fleet_machine_frozen", "1 while this machine refuses what etcd says.", lambda: bool(client.refusal))
    told.gauge("fleet_units", "Units on this machine.", lambda: len(agent.local))
    told.gauge("fleet_units_in_trouble", "Units that cannot be made as wanted.", lambda: len(agent.errors))
    return told


class Daemon:
    """One fleetd."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.keys = keys = Keys(config.etcd_key_prefix)
        memory = Memory(Path(config.state_directory))
        address = config.public_ip or default_address()
        users = logins(config)
        self.etcd = e.Etcd(
            e.nearest_first(config.etcd_servers, address),
            client_tls(config),
            config.etcd_request_timeout,
            users["machine"].name,
            users["machine"].password,
        )
        self.etcd.probe = keys.leader
        self.machine = Machine(
            read_machine_id(),
            address,
            dict(config.metadata),
            read_boot_id(),
            version=__version__,
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            cpus=float(os.cpu_count() or 1),
        )
        self.registry = AskingRegistry(self._etcd_as(users["api"]), keys)
        self.systemd = Systemd(
            self._on_state, self._on_removed, self._on_systemd_lost, self._on_job, user=config.systemd_user
        )
        self._systemd_lost = asyncio.Event()
        units = Path(config.units_directory)
        self.agent = Agent(self.machine.id, self.etcd, keys, self.systemd, units, memory, config.partition_grace)
        engine_etcd = self._etcd_as(users.get("engine", Login()))
        self.engine = Engine(engine_etcd, keys, self.machine.id, config.engine_ttl, memory, config.partition_grace)
        self.pin = Pin(self.etcd, memory, config.etcd_key_prefix, accepted=self.engine.hold)
        self.presence = Presence(
            self.etcd, keys, self.machine, config.machine_ttl, memory, self.agent.on_lease, self.agent.mend
        )
        self.bulletin = Bulletin(self.etcd, keys, self.machine.id, address, min(LEASE_SECONDS, config.machine_ttl))
        self._stop = asyncio.Event()

    def _etcd_as(self, user: Login) -> e.Etcd:
        """The client for a part with a user of its own."""
        return self.etcd.as_user(user.name, user.password) if user.name else self.etcd

    def _on_state(self, name: str, state: ActiveState) -> None:
        self.agent.on_state(name, state)

    def _on_removed(self, name: str) -> None:
        self.agent.on_removed(name)

    def _on_job(self, name: str, result: str) -> None:
        self.agent.on_job(name, result)

    def _on_systemd_lost(self) -> None:
        self.agent.systemd_is_up(False)
        self.presence.tell_trouble(NO_SYSTEMD)
        self._systemd_lost.set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        runner = await self._serve()
        jobs: list[Awaitable[Any]] = [
            self._keep_systemd(),
            self._feed_watchdog(),
            self.pin.run(),
            self.presence.run(),
            self.agent.run(),
            self.agent.publish(),
            self.agent.guard(),
            self.bulletin.run(),
            Desk(self.etcd, self.keys, self.machine.id).run(),
        ]
        if not self.config.disable_engine:
            jobs.append(self.engine.run())
        tasks = [asyncio.ensure_future(job) for job in jobs]
        notify("READY=1")
        stopping = asyncio.ensure_future(self._stop.wait())
        done, _pending = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        try:
            for task in done - {stopping}:
                task.result()
            await self._shut_down()
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.pin.save()
            await runner.cleanup()
            await self.systemd.close()
            await self.etcd.close()

    async def _keep_systemd(self) -> None:
        """Hold a D-Bus connection; while there is none the agent does nothing."""
        delay = 0.2
        while True:
            self._systemd_lost.clear()
            try:
                await self.systemd.connect()
                await self.agent.refresh()
            except SystemdError as exc:
                log.warning("%s; trying again", exc)
                self.presence.tell_trouble(NO_SYSTEMD)
                await self.systemd.close()
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                continue
            delay = 0.2
            self.agent.systemd_is_up(True)
            self.presence.tell_trouble("")
            await self._systemd_lost.wait()
            log.warning("lost the connection to systemd; units are left as they are until it is back")

    async def _feed_watchdog(self) -> None:
        """Tell systemd that this process still turns; one that does not is killed, and its fenced units are stopped.

        It is given half the time that its lease lasts, so that they have stopped before another machine starts them.
        """
        seconds = max(WATCHDOG_LEAST, self.config.machine_ttl / 2)
        notify(f"WATCHDOG_USEC={int(seconds * 1e6)}")
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(seconds / 6)

    async def _serve(self) -> web.AppRunner:
        connections = Connections()
        app = make_app(
            self.registry,
            self.machine.id,
            token_limit=self.config.token_limit,
            metrics=metrics_of(self.engine, self.agent, self.presence, self.etcd),
            connections=connections,
            bulletin=self.bulletin,
        )
        runner = make_runner(app, connections)
        await runner.setup()
        sockets = passed_sockets()
        for item in sockets:
            await web.SockSite(runner, item).start()
        if not sockets:
            await web.SockSite(runner, self._own_socket()).start()
        if self.config.listen:
            host, _colon, port = self.config.listen.rpartition(":")
            await TlsSite(runner, host.strip("[]"), int(port), server_tls(self.config)).start()
        return runner

    def _own_socket(self) -> socket.socket:
        """The API's socket when systemd hands none over: 0660, group fleet where there is one."""
        path = Path(self.config.socket)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        item = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        old = os.umask(0o117)
        try:
            item.bind(str(path))
        except OSError as exc:
            raise StartError(f"cannot listen on {path}: {exc}") from None
        finally:
            os.umask(old)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam("fleet").gr_gid)
        return item

    async def _shut_down(self) -> None:
        """``systemctl stop`` drains the machine, as upstream did; a restart leaves everything running."""
        drain = await self._is_final_stop()
        with contextlib.suppress(e.EtcdError):
            await self.engine.resign()
        if not drain:
            log.info("stopping without touching any unit")
            return
        log.info("draining: stopping all units of this machine")
        if not await self.agent.drain(DRAIN_SECONDS):
            log.warning("some units did not stop in %.0f s: %s", DRAIN_SECONDS, ", ".join(sorted(self.agent.local)))
        with contextlib.suppress(e.EtcdError):
            await self.presence.withdraw()

    async def _is_final_stop(self) -> bool:
        """Whether systemd is to stop this service for good: its queued job tells stop from restart."""
        unit = own_unit(read_own_cgroup())
        if not unit or not self.systemd.connected:
            return False
        try:
            return await self.systemd.queued_job_type(unit) == "stop"
        except SystemdError as exc:
            log.warning("cannot tell a stop from a restart, leaving all units as they are: %s", exc)
            return False


def configure_logging(verbosity: int) -> None:
    """To standard error, which the journal takes; it adds the time."""
    logging.basicConfig(
        level=logging.DEBUG if verbosity > 0 else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fleetd", description="The daemon of fleet: agent, engine and HTTP API.")
    parser.add_argument("-config", "--config", default="/etc/fleet/fleet.conf", help="path of the configuration file")
    parser.add_argument(
        "--fence",
        action="store_true",
        help="stop the OnPartition=stop units of a fleetd that hangs or cannot start (for ExecStopPost=), and exit",
    )
    parser.add_argument(
        "--accept-registry",
        action="store_true",
        help="let this machine, which froze because etcd is another one or in an older state, follow it as it is, "
        "and exit: units that are not in it are stopped",
    )
    parser.add_argument("-version", "--version", action="version", version=f"fleetd version {__version__}")
    return parser.parse_args(argv)


async def _run(config: Config) -> None:
    await Daemon(config).run()


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(sys.argv[1:] if argv is None else argv)
    try:
        config, warnings = load(Path(options.config))
        configure_logging(config.verbosity)
        for warning in warnings:
            log.warning("%s: %s", options.config, warning)
        if options.accept_registry:
            accept(Memory(Path(config.state_directory)))
            return 0
        if options.fence:
            memory = Memory(Path(config.state_directory))
            if must_fence(os.environ.get("SERVICE_RESULT", ""), trusted_until(memory), now()):
                fence(memory, config.partition_grace)
            return 0
        gc.collect()
        gc.freeze()  # what is imported stays: looking through it at each collection is a waste
        asyncio.run(_run(config))
    except (ConfigError, StartError, OSError) as exc:
        print(f"fleetd: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
