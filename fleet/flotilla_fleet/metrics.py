# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``/metrics`` tells, in Prometheus' text format 0.0.4.

A client library would be another package on every host for the forty lines that are needed of it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4"

Labels = Mapping[str, str]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _sample(name: str, labels: tuple[tuple[str, str], ...], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{shown}}} {value:.15g}" if shown else f"{name} {value:.15g}"


class Metrics:
    """Counters that count up, and values that are asked when the metrics are read."""

    def __init__(self) -> None:
        self._help: dict[str, tuple[str, str]] = {}
        self._counters: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        self._gauges: dict[str, tuple[tuple[tuple[str, str], ...], Callable[[], float]]] = {}

    def counter(self, name: str, text: str) -> None:
        """Declare a counter; ``text`` is its help line."""
        self._help[name] = ("counter", text)
        self._counters.setdefault(name, {})

    def count(self, name: str, labels: Labels | None = None, by: float = 1) -> None:
        """Add to a declared counter."""
        key = tuple(sorted((labels or {}).items()))
        series = self._counters[name]
        series[key] = series.get(key, 0) + by

    def gauge(self, name: str, text: str, read: Callable[[], float], labels: Labels | None = None) -> None:
        """Declare a gauge with the function that gives its value."""
        self._help[name] = ("gauge", text)
        self._gauges[name] = (tuple(sorted((labels or {}).items())), read)

    def counted(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Declare a counter that somebody else counts, with the function that gives its value."""
        self._help[name] = ("counter", text)
        self._gauges[name] = ((), read)

    def render(self) -> str:
        """All metrics, sorted by name."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        everything = {**self._help, **_PROCESS_HELP}
        process = process_values()
        for name in sorted(everything):
            kind, text = everything[name]
            if name in _PROCESS_HELP and name not in process:
                continue
            yield f"# HELP {name} {text}"
            yield f"# TYPE {name} {kind}"
            if name in process:
                yield _sample(name, (), process[name])
            elif name in self._gauges:
                labels, read = self._gauges[name]
                yield _sample(name, labels, read())
            else:
                for labels, value in sorted(self._counters[name].items()):
                    yield _sample(name, labels, value)


_PROCESS_HELP = {
    "process_cpu_seconds_total": ("counter", "Processor time of the process in seconds."),
    "process_max_fds": ("gauge", "How many file descriptors the process may have open."),
    "process_open_fds": ("gauge", "How many file descriptors the process has open."),
    "process_resident_memory_bytes": ("gauge", "Resident memory in bytes."),
    "process_start_time_seconds": ("gauge", "When the process began, in seconds since the epoch."),
    "process_virtual_memory_bytes": ("gauge", "Virtual memory in bytes."),
}


def process_values(proc: Path = Path("/proc/self")) -> dict[str, float]:
    """The values of :data:`_PROCESS_HELP`; what ``/proc`` does not tell is left out."""
    values: dict[str, float] = {
        "process_cpu_seconds_total": time.process_time(),
        "process_max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }
    try:
        pages = (proc / "statm").read_text().split()
        # The command, which may hold spaces, ends with the last bracket; field 22 is the start.
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        uptime = float((proc.parent / "uptime").read_text().split()[0])
        values["process_open_fds"] = len(os.listdir(proc / "fd"))
    except (OSError, ValueError, IndexError):
        return values
    size = resource.getpagesize()
    values["process_virtual_memory_bytes"] = int(pages[0]) * size
    values["process_resident_memory_bytes"] = int(pages[1]) * size
    age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    values["process_start_time_seconds"] = time.time() - age
    return values
