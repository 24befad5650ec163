# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks compute from what they saw: pure, so that tests reach it without a host."""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Spent:
    """What one piece of work cost, in seconds.

    ``controller`` and ``hosts`` are processor seconds of the commands that were run here (with all that they started)
    and of the hosts; ``others`` is what the rest of the machine used meanwhile, ``stolen`` what the hypervisor kept.
    ``load`` is the load average when it began.
    """

    wall: float
    controller: float
    hosts: float
    others: float
    stolen: float
    load: float

    @property
    def cpu(self) -> float:
        """Processor seconds of the work itself."""
        return self.controller + self.hosts


@dataclass(frozen=True)
class MachineTime:
    """Processor seconds of the whole machine since it booted."""

    busy: float
    stolen: float


def machine_time(proc_stat: str, ticks: int) -> MachineTime:
    """Read the first line of /proc/stat; ``ticks`` is the clock's ticks a second.

    Guest time is contained in user time, and time that the hypervisor kept was not used by anybody here.
    """
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, proc_stat.split()[1:9])
    return MachineTime((user + nice + system + irq + softirq) / ticks, steal / ticks)


def cgroup_time(cpu_stat: str) -> float:
    """Processor seconds from a cgroup's cpu.stat."""
    values = dict(line.split() for line in cpu_stat.splitlines())
    return int(values["usage_usec"]) / 1e6


def memory_kib(text: str, field: str) -> int:
    """KiB of a field of /proc/PID/status or smaps_rollup, such as VmRSS or Pss.

    Raises ValueError when the text has no such field.
    """
    found = re.search(rf"^{re.escape(field)}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"no field {field} in {text[:80]!r}")
    return int(found[1])


_RECAP = re.compile(r"^(\S+)\s+:\s+ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
_PROFILE = re.compile(r"^(\S.*?) -+ (\d+\.\d+)s$", re.MULTILINE)


def changed(output: str) -> dict[str, int]:
    """Host to its number of changed tasks, from the recap that ends a play's output; empty when there is none."""
    return {found[1]: int(found[3]) for found in _RECAP.finditer(output)}


def profile(output: str) -> list[tuple[str, float]]:
    """(task, seconds) from the table that ansible.posix.profile_tasks prints at the end, slowest first."""
    _before, _heading, table = output.partition("TASKS RECAP")
    return sorted(((found[1], float(found[2])) for found in _PROFILE.finditer(table)), key=lambda row: -row[1])


def median_profile(profiles: Sequence[Sequence[tuple[str, float]]]) -> list[tuple[str, float]]:
    """The median of each task over several runs (0 where a run did not have it), slowest first."""
    totals: list[dict[str, float]] = []
    for rows in profiles:
        total: dict[str, float] = {}
        for name, seconds in rows:
            total[name] = total.get(name, 0.0) + seconds
        totals.append(total)
    names = {name: None for total in totals for name in total}
    medians = [(name, statistics.median(total.get(name, 0.0) for total in totals)) for name in names]
    return sorted(medians, key=lambda row: -row[1])


def spread(values: Sequence[float], digits: int = 1) -> str:
    """``median (smallest-largest)`` of at least one value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def ratio(work: Sequence[float], base: Sequence[float]) -> float:
    """How many times the median of ``base`` the median of ``work`` is."""
    return statistics.median(work) / statistics.median(base)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first row as heading; the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def container_start(text: str) -> float:
    """Seconds since the epoch of a time as docker writes it, with nine digits after the point."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time of docker's, such as 2026-01-31T12:00:00.123456789Z")
    whole = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return whole.timestamp() + float(found[2] or 0)


def choose_victim(machines: Iterable[str], leaders: Collection[str], busy: Collection[str]) -> str:
    """The first machine that leads nothing and runs something.

    Raises ValueError when there is none.
    """
    for machine in machines:
        if machine in busy and machine not in leaders:
            return machine
    raise ValueError(f"no machine leads nothing and runs a unit: {sorted(leaders)} lead, {sorted(busy)} run units")


def etcd_leader(status: Iterable[Mapping[str, Any]]) -> str:
    """The address of the leader, from what ``etcdctl endpoint status --write-out json`` prints.

    Raises ValueError when no endpoint is the leader.
    """
    for endpoint in status:
        seen = endpoint["Status"]
        if seen["leader"] == seen["header"]["member_id"]:
            return urlsplit(endpoint["Endpoint"]).hostname or ""
    raise ValueError("none of the endpoints of etcd is the leader")


def service_samples(text: str) -> dict[str, dict[str, float]]:
    """Service to ``rss`` and ``pss`` in MiB and ``cpu`` in seconds so far.

    The text has, for each service, a line ``== NAME``, the lines VmRSS and Pss, and the line of schedstat of each of
    its threads, which begins with the nanoseconds that the thread has run.
    """
    samples = {}
    for block in text.split("== ")[1:]:
        name, _newline, rest = block.partition("\n")
        ran = [int(line.split()[0]) for line in rest.splitlines() if line[:1].isdigit()]
        samples[name] = {
            "rss": memory_kib(rest, "VmRSS") / 1024,
            "pss": memory_kib(rest, "Pss") / 1024,
            "cpu": sum(ran) / 1e9,
        }
    return samples


def services_at_rest(
    first: Mapping[str, str], second: Mapping[str, str], seconds: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Service to host to ``rss``, ``pss`` (MiB, at the end) and ``cpu`` (percent of one processor between two looks).

    ``first`` and ``second`` map a host to text as :func:`service_samples` reads it.
    """
    services: dict[str, dict[str, dict[str, float]]] = {}
    for host, text in second.items():
        before = service_samples(first[host])
        for name, now in service_samples(text).items():
            percent = 100 * (now["cpu"] - before[name]["cpu"]) / seconds
            services.setdefault(name, {})[host] = {**now, "cpu": percent}
    return services


def seconds_of(rows: Iterable[Mapping[str, Any]], count: int) -> list[float]:
    """Wall seconds of the rows for so many keys, in their order."""
    return [float(row["wall"]) for row in rows if row["keys"] == count]


def extrapolated(one: float, hundred: float, count: int) -> float:
    """Seconds for ``count`` turns of a loop, from those of 1 and of 100: what one turn adds, and the rest once."""
    return one + (hundred - one) / 99 * (count - 1)


def check_perf(output: str) -> dict[str, Any]:
    """``writes`` a second and whether it ``passed``, from what ``etcdctl check perf`` prints.

    Raises ValueError when there is no throughput in it.
    """
    found = re.search(r"Throughput (?:is|too low:) (\d+) writes/s", output)
    if found is None:
        raise ValueError(f"etcdctl check perf printed no throughput: {output[-300:]!r}")
    return {"writes": int(found[1]), "passed": output.rstrip().endswith("PASS")}


def turns(text: str) -> tuple[list[float], list[float]]:
    """Seconds of the second and of the first of two things that were done in turns.

    Each line has when the first began and ended, and when the second did, in seconds since whenever.
    """
    rows = [[float(word) for word in line.split()] for line in text.splitlines()]
    return [row[3] - row[2] for row in rows], [row[1] - row[0] for row in rows]
