# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the death of a machine to its units active elsewhere, and what fleetd costs at rest: ``make bench-failover``.

Three hosts as playbooks/site.yml leaves them, once for each time to live. Each try puts plain units and containers on
all of them, takes the power from one that leads neither fleet nor etcd, and reads from systemd and docker on the others
when its units became active there: all hosts have one clock, as they share a kernel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import figures
from lab import OUTPUT, ROOT, BenchError, Lab, Order, Progress, main, write_results

sys.path.insert(0, str(ROOT / "fleet"))

from flotilla_fleet.ctl.client import Client, Endpoint
from flotilla_fleet.ctl.errors import CtlError
from flotilla_fleet.unitfile import parse_unit

CLUSTER = "bf"
#: Seconds that upstream's fleet 1.0 took on hosts of this kind, by time to live.
UPSTREAM = {30.0: 29.0, 5.0: 8.3}

_PLAY_TIMEOUT = 600.0
_API_TIMEOUT = 10.0
_SETTLE = 5.0  # seconds between the last change and the look at fleetd at rest

_SLEEP = """\
[Unit]
Description=Benchmark

[Service]
ExecStart=/bin/sleep infinity
"""
_DOCKER = """\
[Unit]
Description=Benchmark
After=docker.service
Requires=docker.service

[Service]
ExecStartPre=-/usr/bin/docker rm --force %p
ExecStart=/usr/bin/docker run --rm --name %p flotilla-bench:1 /bin/busybox sleep 1000000
ExecStop=/usr/bin/docker stop --time 1 %p
SuccessExitStatus=137 143
"""
#: No registry is needed for an image of one file.
_IMAGE = "tar --create --directory / bin/busybox | docker import - flotilla-bench:1"

#: What a try measures, in seconds from the kill on unless it says otherwise.
_TIMES = {
    "gone": "fleet no longer shows the machine",
    "sleep": "plain unit active elsewhere (systemd)",
    "docker": "container runs elsewhere (docker)",
    "shown": "API shows both as active",
    "back": "machine back in fleet, from its ssh on",
}

_SERVICES = ("fleet.service", "etcd.service")
_REST = r"""
for service in "$@"; do
    pid=$(systemctl show --property MainPID --value "$service")
    echo "== $service"
    grep VmRSS /proc/$pid/status
    grep ^Pss: /proc/$pid/smaps_rollup
    cat /proc/$pid/task/*/schedstat
done
"""


def wait(what: str, timeout: float, ready: Callable[[], bool]) -> float:
    """Seconds until ``ready``; an API that cannot answer just then is asked again.

    Raises BenchError when it takes longer than ``timeout``.
    """
    begun = time.monotonic()
    problem = ""
    while True:
        try:
            if ready():
                return time.monotonic() - begun
        except CtlError as error:
            problem = f" ({error})"
        if time.monotonic() - begun > timeout:
            raise BenchError(f"waited {timeout:.0f} s in vain for {what}{problem}")
        time.sleep(0.1)


class Fleet:
    """The cluster of a lab, seen through the API of one of its machines."""

    def __init__(self, lab: Lab, api: Client) -> None:
        self.lab = lab
        self.api = api
        self.ids = {name: text.strip() for name, text in lab.on_all("cat /etc/machine-id").items()}
        self.names = {machine: name for name, machine in self.ids.items()}

    def active(self) -> dict[str, list[str]]:
        """Unit name to the hosts on which the API shows it as active."""
        found: dict[str, list[str]] = {}
        for state in self.api.states():
            if state.get("systemdActiveState") == "active":
                found.setdefault(state["name"], []).append(self.names[state["machineID"]])
        return found

    def launch(self, units: Mapping[str, str], timeout: float = 180.0) -> float:
        """Seconds from the first request to all units active."""
        begun = time.monotonic()
        for name, text in units.items():
            options = [option._asdict() for option in parse_unit(text)]
            self.api.put_unit(name, {"name": name, "desiredState": "launched", "options": options})
        wait(f"{len(units)} units to be active", timeout, lambda: units.keys() <= self.active().keys())
        return time.monotonic() - begun

    def destroy(self, units: Sequence[str], timeout: float = 180.0) -> float:
        """Seconds from the first request until neither units nor states of them are left."""
        begun = time.monotonic()
        names = set(units)
        for name in names:
            self.api.delete_unit(name)

        def gone() -> bool:
            left = {item["name"] for items in (self.api.units(), self.api.states()) for item in items}
            return not left & names

        wait(f"{len(names)} units to be gone", timeout, gone)
        return time.monotonic() - begun

    def whole(self) -> bool:
        """Whether all machines are in fleet and all members of etcd are healthy."""
        if {machine["id"] for machine in self.api.machines()} != set(self.names):
            return False
        healthy = self.lab.on(
            self.lab.names[0], f"{self.lab.etcdctl()}endpoint health 2>&1 | grep -c 'is healthy' || :"
        )
        return int(healthy) == len(self.names)

    def engine_leader(self) -> str:
        """The host whose engine leads."""
        text = self.lab.on(self.lab.names[0], f"{self.lab.etcdctl()}get --print-value-only /_coreos.com/fleet/leader")
        return self.names[json.loads(text)["id"]]

    def etcd_leader(self) -> str:
        """The host whose member of etcd leads."""
        text = self.lab.on(self.lab.names[0], f"{self.lab.etcdctl()}endpoint status --write-out json")
        address = figures.etcd_leader(json.loads(text))
        return next(name for name in self.lab.names if self.lab.address(name) == address)


@contextmanager
def fleet_of(lab: Lab, host: str) -> Iterator[Fleet]:
    """The fleet of a lab through the API of one host, by a socket that ssh brings here."""
    path = lab.folder / "fleet.sock"
    path.unlink(missing_ok=True)
    tunnel = subprocess.Popen(
        lab.ssh(host, "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"{path}:/run/fleet.sock"),
        stdin=subprocess.DEVNULL,
    )
    try:
        wait(f"ssh to forward {path}", 20, path.exists)
        api = Client(Endpoint(f"unix://{path}"), _API_TIMEOUT)
        try:
            yield Fleet(lab, api)
        finally:
            api.close()
    finally:
        tunnel.terminate()
        tunnel.wait()


def units_of_a_try(lab: Lab) -> Iterator[dict[str, str]]:
    """As many units of each kind as there are hosts: the scheduler, which counts units, gives every host one."""
    for kind, text in (("sleep", _SLEEP), ("docker", _DOCKER)):
        yield {f"bench-{kind}-{number}.service": text for number in range(1, len(lab.names) + 1)}


def entered(lab: Lab, host: str, unit: str) -> float:
    """When a unit became active on a host, on the clock of time.monotonic; raises BenchError when it is not active."""
    fields = "--property ActiveState --property ActiveEnterTimestampMonotonic"
    values = dict(line.split("=", 1) for line in lab.on(host, f"systemctl show {fields} {unit}").splitlines())
    if values["ActiveState"] != "active":
        raise BenchError(f"fleet shows {unit} as active on {host}, and systemd there says {values['ActiveState']}")
    return int(values["ActiveEnterTimestampMonotonic"]) / 1e6


def container_started(lab: Lab, host: str, unit: str) -> float:
    """When the container of a unit started, on the clock of time.monotonic; raises BenchError when it does not run."""
    name = unit.removesuffix(".service")
    running, started = lab.on(
        host, f"docker inspect --format '{{{{.State.Running}}}} {{{{.State.StartedAt}}}}' {name}"
    ).split()
    if running != "true":
        raise BenchError(f"{unit} is active on {host} and its container does not run")
    return figures.container_start(started) - (time.time() - time.monotonic())


def choose(fleet: Fleet, avoid: str) -> str:
    """The host to kill: one that leads nothing, runs units of both kinds, and is not the one we look through."""
    active = fleet.active()
    busy = {
        name
        for name in fleet.lab.names
        if all(any(kind in unit and name in hosts for unit, hosts in active.items()) for kind in ("sleep", "docker"))
    }
    return figures.choose_victim(fleet.lab.names, {fleet.engine_leader(), fleet.etcd_leader(), avoid}, busy)


def one_try(lab: Lab, ttl: float, progress: Progress) -> dict[str, Any]:
    """Kill one machine, see its units move, and start it again; the seconds of ``_TIMES`` and of the ways there."""
    with fleet_of(lab, lab.names[0]) as fleet:
        wait("a whole cluster", 60, fleet.whole)
        watcher = fleet.engine_leader()
    with fleet_of(lab, watcher) as fleet:
        launched = [fleet.launch(units) for units in units_of_a_try(lab)]
        before = fleet.active()
        victim = choose(fleet, watcher)
        moving = sorted(unit for unit, hosts in before.items() if victim in hosts)
        staying = {unit: hosts[0] for unit, hosts in before.items() if victim not in hosts}
        progress.say(f"killing {victim}, which runs {', '.join(moving)}; {watcher} leads fleet")

        begun = time.monotonic()
        lab.kill(victim)
        killed = time.monotonic()
        gone: list[float] = []

        def moved() -> bool:
            if not gone and fleet.ids[victim] not in {machine["id"] for machine in fleet.api.machines()}:
                gone.append(time.monotonic())
            active = fleet.active()
            return all(set(active.get(unit, [victim])) - {victim} for unit in moving)

        wait(f"the units of {victim} to be active elsewhere", 3 * ttl + 60, moved)
        shown = time.monotonic()
        after = {unit: next(host for host in hosts if host != victim) for unit, hosts in fleet.active().items()}
        sleeps = [entered(lab, after[unit], unit) for unit in moving if "sleep" in unit]
        containers = [container_started(lab, after[unit], unit) for unit in moving if "docker" in unit]
        restarted = [unit for unit, host in staying.items() if entered(lab, host, unit) > begun]
        if restarted:
            raise BenchError(f"{', '.join(restarted)} restarted, though their machines are alive")

        lab.start(victim)
        booted = time.monotonic()
        wait(f"{victim} to be back", 120, fleet.whole)
        back = time.monotonic() - booted
        fleet.destroy([unit for units in units_of_a_try(lab) for unit in units])
    return {
        "victim": victim,
        "kill": killed - begun,
        "launch_sleep": launched[0],
        "launch_docker": launched[1],
        "gone": (gone or [shown])[0] - begun,
        "sleep": max(sleeps) - begun,
        "docker": max(containers) - begun,
        "shown": shown - begun,
        "back": back,
    }


def at_rest(lab: Lab, seconds: float) -> dict[str, dict[str, dict[str, float]]]:
    """What services use at rest: service to host to resident MiB, proportional MiB and percent of one processor."""
    command = f"bash -s {' '.join(_SERVICES)}"
    time.sleep(_SETTLE)
    begun = time.monotonic()
    first = lab.on_all(command, _REST)
    time.sleep(seconds)
    passed = time.monotonic() - begun
    second = lab.on_all(command, _REST)
    return figures.services_at_rest(first, second, passed)


def footprint(lab: Lab, counts: Sequence[int], seconds: float, progress: Progress) -> list[dict[str, Any]]:
    """What fleetd uses with so many units, and how long they take to start and to go."""
    results = []
    with fleet_of(lab, lab.names[0]) as fleet:
        for count in counts:
            units = {f"bench-rest-{number}.service": _SLEEP for number in range(count)}
            launch = fleet.launch(units)
            progress.say(f"{count} units: active after {launch:.1f} s; watching fleetd at rest for {seconds:.0f} s")
            rest = at_rest(lab, seconds)
            destroy = fleet.destroy(list(units))
            results.append({"units": count, "launch": launch, "destroy": destroy, "services": rest})
    return results


def failover_report(ttl: float, tries: Sequence[Mapping[str, Any]]) -> str:
    """The text for one time to live."""
    rows = [[f"time to live {ttl:g} s, {len(tries)} tries", "seconds"]]
    rows += [[text, figures.spread([one[key] for one in tries])] for key, text in _TIMES.items()]
    upstream = f"\nupstream: {UPSTREAM[ttl]} s" if ttl in UPSTREAM else ""
    return figures.table(rows) + upstream


def _one_line(one: Mapping[str, Any]) -> str:
    times = ", ".join(f"{key} {one[key]:.2f} s" for key in _TIMES)
    return f"after the death of {one['victim']}: {times}"


def footprint_report(results: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """The text about services at rest; ranges are over the hosts."""
    rows = [
        ["service", "units", "RSS MiB", "PSS MiB", f"CPU % of one, over {seconds:.0f} s", "active after s", "gone s"]
    ]
    for result in results:
        for service, hosts in result["services"].items():
            values = [[host[field] for host in hosts.values()] for field in ("rss", "pss")]
            percent = [host["cpu"] for host in hosts.values()]
            times = [f"{result[field]:.1f}" if service == _SERVICES[0] else "" for field in ("launch", "destroy")]
            rows.append(
                [
                    service,
                    str(result["units"]),
                    *(figures.spread(row) for row in values),
                    figures.spread(percent, digits=2),
                    *times,
                ]
            )
    return figures.table(rows)


def bench(options: argparse.Namespace) -> None:
    """Measure, print, keep."""
    progress = Progress()
    logs = OUTPUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    folder = Path("/run") / f"flotilla-{CLUSTER}"
    results: dict[str, Any] = {"hosts": options.hosts, "failover": {}, "rest": []}
    try:
        for number, ttl in enumerate(options.ttl):
            order = Order(
                cluster=CLUSTER,
                hosts=options.hosts,
                prefix="f-",
                packages="installed",
                variables={"fleet_agent_ttl": f"{ttl:g}s"},
            )
            with Lab(order, folder, progress) as lab:
                progress.say(f"running playbooks/site.yml with fleet_agent_ttl={ttl:g}s")
                lab.play(logs / f"failover-{ttl:g}.log", _PLAY_TIMEOUT)
                lab.on_all(_IMAGE)
                if number == 0 and options.units:
                    results["rest"] = footprint(lab, options.units, options.seconds, progress)
                tries = results["failover"][f"{ttl:g}"] = []
                for _ in range(options.tries):
                    tries.append(one_try(lab, ttl, progress))
                    progress.say(_one_line(tries[-1]))
    finally:
        if results["rest"] or any(results["failover"].values()):
            path = write_results("failover", results)
            for ttl, tries in results["failover"].items():
                if tries:
                    print(f"\n{failover_report(float(ttl), tries)}")
            if results["rest"]:
                print(f"\n{footprint_report(results['rest'], options.seconds)}")
            print(f"\nresults: {path}", flush=True)


def _numbers(kind: Callable[[str], Any], low: float, high: float) -> Callable[[str], list[Any]]:
    def parse_list(text: str) -> list[Any]:
        try:
            values = [kind(part) for part in text.split(",") if part]
        except ValueError:
            values = [low - 1]
        if any(not low <= value <= high for value in values):
            raise argparse.ArgumentTypeError(f"{text!r} is not possible: give numbers from {low} to {high}, as in 5,30")
        return values

    return parse_list


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; bad ones end the program with one sentence."""
    parser = argparse.ArgumentParser(
        prog="bench_failover.py", description="From the death of a machine to its units active elsewhere."
    )
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="tries of each, 0 for none (%(default)s)")
    parser.add_argument(
        "--ttl", type=_numbers(float, 2, 3600), default=[30.0, 5.0], metavar="S,S", help="times to live (30,5)"
    )
    parser.add_argument(
        "--units",
        type=_numbers(int, 0, 2000),
        default=[0, 30],
        metavar="N,N",
        help="numbers of units at which to look at fleetd at rest; '' for none (0,30)",
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="how long to look (%(default)s)")
    parser.add_argument("--hosts", type=int, default=3, metavar="N", help="how many hosts (%(default)s)")
    options = parser.parse_args(arguments)
    if not 0 <= options.tries <= 50:
        parser.error(f"--tries {options.tries} is not possible: give 0 to 50")
    if options.hosts not in (3, 5):
        parser.error(f"--hosts {options.hosts} is not possible: a majority of etcd must survive, so give 3 or 5")
    if not 1 <= options.seconds <= 600:
        parser.error(f"--seconds {options.seconds:g} is not possible: give 1 to 600")
    return options


if __name__ == "__main__":
    chosen = parse()
    sys.exit(main("bench_failover.py", lambda: bench(chosen), CtlError, ValueError))
