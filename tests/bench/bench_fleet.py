# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Our fleet beside upstream's 1.0.0, on the same hosts in one run: ``make bench-fleet``.

Three hosts as playbooks/site.yml leaves them, first with the collection's fleet, then, by the same play, with a release
of upstream's that is built here with Go. Each is given the same units through its HTTP API; where there is no Go, what
upstream took on hosts of this kind before stands in its column.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import figures
from bench_failover import _SLEEP, Fleet, at_rest, fleet_of, wait
from lab import OUTPUT, ROOT, Lab, Order, Progress, main, write_results

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "fleet"))

from support.upstream import Archive, archive

from flotilla_fleet.ctl.errors import CtlError
from flotilla_fleet.unitfile import parse_unit

CLUSTER = "bfl"
OURS, UPSTREAM = "ours", "upstream"
_PLAY_TIMEOUT = 600.0
_WAIT = 600.0

#: What is measured, and the most that ours may take.
GOALS = {
    "one": ("one unit put, until active, s", 0.5),
    "put100": ("100 units put one by one, until all active, s", 2.5),
    "gone100": ("100 units deleted, until gone, s", 3.0),
    "put300": ("300 units put one by one, until all active, s", 6.0),
    "cpu300": ("idle CPU with 300 units, busiest host, %", 1.0),
    "rss300": ("memory of fleetd (RSS), largest, MiB", 40.0),
}
#: Upstream on hosts of this kind, in the middle of what was seen.
BEFORE = {"one": 4.5, "put100": 6.3, "gone100": 136.0, "put300": 8.7, "cpu300": 4.3, "rss300": 17.0}


def units(count: int) -> dict[str, str]:
    return {f"bench-{number:03d}.service": _SLEEP for number in range(count)}


def one_unit(fleet: Fleet, number: int) -> float:
    """Seconds from the request for a unit until the API shows it as active."""
    name = f"bench-one-{number}.service"
    options = [option._asdict() for option in parse_unit(_SLEEP)]
    begun = time.monotonic()
    fleet.api.put_unit(name, {"name": name, "desiredState": "launched", "options": options})
    while not any(state.get("systemdActiveState") == "active" for state in fleet.api.states(unit=name)):
        if time.monotonic() - begun > _WAIT:
            raise CtlError(f"{name} did not become active in {_WAIT:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - begun


def measure(lab: Lab, tries: int, seconds: float, progress: Progress) -> dict[str, list[float]]:
    """What ``GOALS`` names, once for each try; what is at rest once."""
    found: dict[str, list[float]] = {key: [] for key in GOALS}
    with fleet_of(lab, lab.names[0]) as fleet:
        wait("all machines", 60, lambda: len(fleet.api.machines()) == len(lab.names))
        for number in range(tries):
            found["one"] += [one_unit(fleet, 3 * number + part) for part in range(3)]
            found["put100"].append(fleet.launch(units(100), _WAIT))
            progress.say(f"100 units active after {found['put100'][-1]:.2f} s, one after {found['one'][-1]:.2f} s")
            found["gone100"].append(fleet.destroy(list(units(100)), _WAIT))
            progress.say(f"100 units gone after {found['gone100'][-1]:.2f} s")
        found["put300"].append(fleet.launch(units(300), _WAIT))
        progress.say(f"300 units active after {found['put300'][-1]:.2f} s; watching them for {seconds:.0f} s")
        services = at_rest(lab, seconds)["fleet.service"].values()
        found["cpu300"].append(max(host["cpu"] for host in services))
        found["rss300"].append(max(host["rss"] for host in services))
    return found


def report(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The table: medians of each, how many times less ours takes, and whether that is the goal."""
    beside = results.get(UPSTREAM, {})
    rows = [["what", OURS, UPSTREAM if beside else f"{UPSTREAM}, before", "ratio", "goal", ""]]
    for key, (text, goal) in GOALS.items():
        ours = statistics.median(results[OURS][key])
        theirs = statistics.median(beside[key]) if beside.get(key) else BEFORE[key]
        verdict = "" if ours <= goal else "MISSED"
        rows.append([text, f"{ours:.2f}", f"{theirs:.2f}", f"{theirs / ours:.1f}", f"{goal:g}", verdict])
    return figures.table(rows)


def bench(options: argparse.Namespace) -> None:
    """Measure, print, keep."""
    progress = Progress()
    logs = OUTPUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    order = Order(cluster=options.cluster, hosts=3, prefix="bf-", packages="installed")
    upstream: Archive | None = None if options.ours else archive()
    results: dict[str, dict[str, list[float]]] = {}
    with Lab(order, Path("/run") / f"flotilla-{options.cluster}", progress) as lab:
        progress.say("running playbooks/site.yml")
        lab.play(logs / "fleet-ours.log", _PLAY_TIMEOUT)
        results[OURS] = measure(lab, options.tries, options.seconds, progress)
        if upstream is not None:
            with fleet_of(lab, lab.names[0]) as fleet:
                fleet.destroy([unit["name"] for unit in fleet.api.units()], _WAIT)
            progress.say("running playbooks/site.yml with fleet_source=release")
            lab.play(logs / "fleet-upstream.log", _PLAY_TIMEOUT, variables=upstream.variables)
            results[UPSTREAM] = measure(lab, options.tries, options.seconds, progress)
    path = write_results("fleet", results)
    print(f"\n{report(results)}\n\nresults: {path}", flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; bad ones end the program with one sentence."""
    parser = argparse.ArgumentParser(prog="bench_fleet.py", description="Our fleet beside upstream's.")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="tries of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long to look at fleetd at rest")
    parser.add_argument("--ours", action="store_true", help="leave upstream out")
    parser.add_argument("--cluster", default=CLUSTER, metavar="NAME", help="name of the hosts' cluster (%(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.tries <= 50:
        parser.error(f"--tries {options.tries} is not possible: give 1 to 50")
    if not 1 <= options.seconds <= 600:
        parser.error(f"--seconds {options.seconds:g} is not possible: give 1 to 600")
    return options


if __name__ == "__main__":
    chosen = parse()
    sys.exit(main("bench_fleet.py", lambda: bench(chosen), CtlError, ValueError))
