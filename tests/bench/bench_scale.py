# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fleet grows: simulated machines and real units on one real etcd, with one real engine.

The machines are presence keys; one simulator answers for all of them by writing the states that their agents would.
What an agent would have to read is counted: its own assignments and nothing else.

    .venv/bin/python tests/bench/bench_scale.py --machines 1000 --units 10000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "fleet"), str(ROOT / "tests")]

from support.etcd import EtcdProcess, binary  # noqa: E402

from flotilla_fleet.engine import Engine  # noqa: E402
from flotilla_fleet.etcd import MAX_TXN_OPS, Etcd, op_put  # noqa: E402
from flotilla_fleet.memory import Memory  # noqa: E402
from flotilla_fleet.model import (  # noqa: E402
    Machine,
    Unit,
    UnitState,
    decode_assignment,
    encode_machine,
    encode_state,
    encode_unit,
)
from flotilla_fleet.registry import Keys, Registry  # noqa: E402
from flotilla_fleet.unitfile import parse_unit  # noqa: E402

UNIT = """[Unit]
Description=one of many
[Service]
ExecStartPre=-/usr/bin/docker rm -f %n
ExecStart=/usr/bin/docker run --rm --name %n flotilla/busybox:1 /bin/sleep infinity
ExecStop=/usr/bin/docker stop %n
"""


def cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def put_many(client: Etcd, puts: list[dict[str, object]]) -> None:
    for start in range(0, len(puts), MAX_TXN_OPS):
        await client.txn([], puts[start : start + MAX_TXN_OPS])


class Machines:
    """Answers for all machines: each assignment becomes an active unit."""

    def __init__(self, client: Etcd, keys: Keys) -> None:
        self.etcd, self.keys = client, keys
        self.assigned: set[tuple[str, str]] = set()
        self.events: dict[str, int] = {}
        self.news = asyncio.Event()

    async def run(self, revision: int) -> None:
        async for batch in self.etcd.watch(self.keys.all("assign"), revision):
            puts: list[dict[str, object]] = []
            for change in batch:
                _kind, machine, name = self.keys.split(change.key)
                self.events[machine] = self.events.get(machine, 0) + 1
                if change.kv is None:
                    self.assigned.discard((machine, name))
                    continue
                copy = decode_assignment(change.key, name, change.kv.value)
                state = UnitState(name, machine, copy.hash, "loaded", "active", "running", "launched")
                puts.append(op_put(self.keys.state(machine, name), encode_state(state)))
                self.assigned.add((machine, name))
            await put_many(self.etcd, puts)
            self.news.set()

    async def until(self, number: int) -> None:
        while len(self.assigned) < number:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 600)


async def measure(url: str, machines: int, units: int, directory: Path, etcd_pid: int) -> dict[str, float]:
    keys = Keys("/scale/")
    writer, engine_etcd, simulator_etcd = Etcd([url], timeout=30), Etcd([url], timeout=30), Etcd([url], timeout=30)
    ids = [f"{number:032x}" for number in range(1, machines + 1)]
    present = [Machine(machine_id, f"192.0.2.{n % 250}") for n, machine_id in enumerate(ids)]
    await put_many(writer, [op_put(keys.presence(m.id), encode_machine(m)) for m in present])
    options = tuple(parse_unit(UNIT))
    wanted = [Unit(f"u{number:05d}.service", options, "launched") for number in range(units)]
    await put_many(writer, [op_put(keys.unit(unit.name), encode_unit(unit)) for unit in wanted])
    simulator = Machines(simulator_etcd, keys)
    start = (await writer.range(keys.leader)).revision + 1
    tasks = [asyncio.create_task(simulator.run(start))]
    engine = Engine(engine_etcd, keys, ids[0], 30, Memory(directory), grace=10)
    used, etcd_used, began = resource.getrusage(resource.RUSAGE_SELF), cpu(etcd_pid), time.monotonic()
    requests = engine_etcd.requests
    tasks.append(asyncio.create_task(engine.run()))
    await simulator.until(units)
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "place_all_seconds": seconds,
        "place_all_engine_and_simulator_cpu_seconds": after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
        "place_all_etcd_cpu_seconds": cpu(etcd_pid) - etcd_used,
        "place_all_engine_requests": engine_etcd.requests - requests,
        "place_all_requests_per_second": (engine_etcd.requests - requests) / seconds,
        "events_per_agent": sum(simulator.events.values()) / machines,
        "most_events_of_an_agent": max(simulator.events.values()),
    }
    await asyncio.sleep(3)
    idle, idle_requests, began = time.process_time(), engine_etcd.requests, time.monotonic()
    await asyncio.sleep(15)
    span = time.monotonic() - began
    found["idle_engine_cpu_percent"] = 100 * (time.process_time() - idle) / span
    found["idle_engine_requests_per_second"] = (engine_etcd.requests - idle_requests) / span
    registry = Registry(writer, keys)
    times = []
    for number in range(10):
        began = time.monotonic()
        await registry.put_unit(f"late{number}.service", options, "launched", None)
        await simulator.until(units + number + 1)
        times.append(time.monotonic() - began)
    found["one_unit_seconds_median"] = sorted(times)[len(times) // 2]
    victim = ids[-1]
    lost = sum(machine == victim for machine, _name in simulator.assigned)
    began = time.monotonic()
    await writer.txn([], [{"requestDeleteRange": {"key": op_put(keys.presence(victim), "")["requestPut"]["key"]}}])
    while any(machine == victim for machine, _name in simulator.assigned) or len(simulator.assigned) < units + 10:
        simulator.news.clear()
        await asyncio.wait_for(simulator.news.wait(), 60)
    found["machine_lost_units"] = lost
    found["machine_lost_seconds"] = time.monotonic() - began
    found["rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for client in (writer, engine_etcd, simulator_etcd):
        await client.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000)
    parser.add_argument("--units", type=int, default=10000)
    options = parser.parse_args()
    program = binary("etcd", "etcd-server")
    if program is None:
        print("bench_scale: no etcd in PATH and none from the distribution's packages", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        server = EtcdProcess(program, Path(name) / "etcd")
        server.start()
        assert server.process is not None
        load = os.getloadavg()[0]
        print(f"{options.machines} machines, {options.units} units, etcd {server.program}, load {load:.1f}")
        try:
            found = asyncio.run(
                measure(server.url, options.machines, options.units, Path(name) / "memory", server.process.pid)
            )
        finally:
            server.stop()
    for key, value in found.items():
        print(f"  {key:44} {value:10.2f}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
