# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers deployed by role service beside Swarm's, on the same hosts in one run: ``make bench-deploy``.

Three hosts as playbooks/site.yml leaves them. First role service and fleet have them, then, with docker's live-restore
switched off (Swarm refuses to run with it), a Swarm of three managers. Both are asked for copies of an image that the
hosts have, and both lose a machine that leads nothing; what counts is when docker shows the containers as running.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import figures
from bench_failover import _IMAGE, fleet_of, wait
from lab import OUTPUT, BenchError, Done, Lab, Order, Progress, main, write_results

CLUSTER = "bdep"
TTL = 5  # seconds: fleet_agent_ttl; Swarm's managers count a worker out after three heartbeats of five seconds
_PLAY_TIMEOUT = 900.0
_WAIT = 600.0
_SPARE_COPIES = 9

#: What is measured: text, and the most that ours may take, as a ratio to what is beside it or, with "s", in seconds.
#: What processors spend is told and not judged: Swarm waits more than it works.
GOALS: dict[str, tuple[str, float, str]] = {
    "deploy": ("copies running, from the start of the play or the command, s", 1.0, ""),
    "cpu": ("the same in seconds of processors", math.inf, ""),
    "failover": ("all copies running again after a machine was lost, s", 0.5, ""),
    "unit": ("one container: systemctl start beside docker run, s", 1.3, ""),
    "again": ("second run of the play with as many services, s", 5.0, "s"),
}

# Seconds of starts of a unit and of a bare docker run, in turns, so that both see the same machine.
_STARTS = r"""
set -eu
stop() { docker rm --force bare >/dev/null 2>&1 || :; systemctl stop bench-unit.service; }
now() { date +%s.%N; }
for number in $(seq "$1"); do
    stop
    begun=$(now); docker run --detach --name bare flotilla-bench:1 /bin/busybox sleep 1000000 >/dev/null
    middle=$(now); docker rm --force bare >/dev/null
    before=$(now); systemctl start bench-unit.service; ended=$(now)
    echo "$begun $middle $before $ended"
done
stop
"""
_UNIT = """\
[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/lib/flotilla/container bench-unit started flotilla-bench:1 /bin/busybox sleep 1000000
ExecStop=-/usr/bin/docker stop --time=1 bench-unit
ExecStopPost=-/usr/bin/docker rm --force bench-unit
SuccessExitStatus=143
"""
_NO_LIVE_RESTORE = (
    'sed -i \'s/"live-restore": true/"live-restore": false/\' /etc/docker/daemon.json && systemctl restart docker'
)
_RUNNING = "docker ps --quiet --filter ancestor=flotilla-bench:1 | wc -l"


def running(lab: Lab, hosts: Sequence[str] | None = None) -> int:
    """Containers of the benchmark that run on these hosts, or all."""
    if hosts is None:
        return sum(int(text) for text in lab.on_all(_RUNNING).values())
    return sum(int(lab.on(host, _RUNNING)) for host in hosts)


def told(spent: figures.Spent) -> str:
    return f"processors {spent.cpu:.1f} s, others meanwhile {spent.others:.1f} s, load {spent.load:.1f}"


def services(copies: int = 0, many: int = 0) -> list[dict[str, Any]]:
    """One service with so many copies, and so many services with one copy."""
    container = {"image": "flotilla-bench:1", "command": ["/bin/busybox", "sleep", "1000000"], "stop_timeout": 1}
    found = [{"name": f"many-{number:03d}", **container} for number in range(many)]
    return [*found, *([{"name": "bench", "replicas": copies, **container}] if copies else [])]


def deploy(lab: Lab, log: Path, wanted: list[dict[str, Any]]) -> Done:
    """Run a playbook that deploys these services and nothing else."""
    playbook = lab.folder / "deploy.yml"
    variables = {"service_group": "bench", "service_timeout": 600, "service_list": wanted}
    play = {
        "name": "Deploy",
        "hosts": "machines",
        "gather_facts": False,
        "roles": [{"role": "flotilla.cluster.service", "vars": variables}],
    }
    playbook.write_text(json.dumps([play], indent=1))
    return lab.play(log, _PLAY_TIMEOUT, playbook=str(playbook))


def fail_over(lab: Lab, victim: str, copies: int, progress: Progress) -> float:
    """Seconds from the death of a machine until all copies run on the others."""
    others = [name for name in lab.names if name != victim]
    if running(lab) != copies or not running(lab, [victim]):
        raise BenchError(f"{victim} runs none of the {copies} copies, or there are not as many")
    progress.say(f"killing {victim}")
    begun = time.monotonic()
    lab.kill(victim)
    wait(f"{copies} copies on {' and '.join(others)}", _WAIT, lambda: running(lab, others) >= copies)
    return time.monotonic() - begun


# -- role service and fleet ---------------------------------------------------------------


def measure_ours(lab: Lab, options: argparse.Namespace, logs: Path, progress: Progress) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {key: [] for key in GOALS}
    for _ in range(options.tries):
        spent = deploy(lab, logs / "deploy-copies.log", services(copies=options.copies)).spent
        if (count := running(lab)) != options.copies:
            raise BenchError(f"{count} copies run and not {options.copies}, though the play says that all are up")
        found["deploy"].append(spent.wall)
        found["cpu"].append(spent.cpu)
        progress.say(f"{options.copies} copies run after {spent.wall:.1f} s; {told(spent)}")
        deploy(lab, logs / "deploy-none.log", [])
    for _ in range(options.tries):
        deploy(lab, logs / "deploy-copies.log", services(copies=_SPARE_COPIES))
        with fleet_of(lab, lab.names[0]) as fleet:
            wait("a whole cluster", 120, fleet.whole)
            victim = figures.choose_victim(
                lab.names, {fleet.engine_leader(), fleet.etcd_leader(), lab.names[0]}, set(lab.names)
            )
        found["failover"].append(fail_over(lab, victim, _SPARE_COPIES, progress))
        progress.say(f"all copies run again after {found['failover'][-1]:.1f} s")
        revive(lab, victim)
        deploy(lab, logs / "deploy-none.log", [])
    deploy(lab, logs / "deploy-many.log", services(many=options.copies))
    for _ in range(options.tries):
        log = logs / "deploy-again.log"
        done = deploy(lab, log, services(many=options.copies))
        if any(figures.changed(done.output).values()):
            raise BenchError(f"the second run changed something: see {log}")
        found["again"].append(done.spent.wall)
        spent = done.spent
        progress.say(f"again: {spent.wall:.1f} s; {told(spent)}")
    deploy(lab, logs / "deploy-none.log", [])
    return found


def revive(lab: Lab, victim: str) -> None:
    lab.start(victim)
    with fleet_of(lab, lab.names[0]) as fleet:
        wait(f"{victim} to be back", 180, fleet.whole)
    lab.on(victim, "until docker info >/dev/null 2>&1; do sleep 0.2; done", timeout=60)
    # what the crash has left of containers is not to be counted by anybody
    lab.on(victim, "docker ps --all --quiet --filter status=exited | xargs --no-run-if-empty docker rm --force")


def measure_starts(lab: Lab, count: int) -> tuple[list[float], list[float]]:
    host = lab.names[0]
    lab.on(host, "cat >/run/systemd/system/bench-unit.service && systemctl daemon-reload", _UNIT)
    return figures.turns(lab.on(host, f"bash -s {count}", _STARTS, timeout=300))


# -- Swarm -----------------------------------------------------------------------------------


def make_swarm(lab: Lab) -> None:
    lab.on_all(_NO_LIVE_RESTORE)
    first, *others = lab.names
    lab.on(first, f"docker swarm init --advertise-addr {lab.address(first)}")
    token = lab.on(first, "docker swarm join-token --quiet manager").strip()
    for name in others:
        lab.on(name, f"docker swarm join --token {token} {lab.address(first)}:2377")


def create(lab: Lab, copies: int, log: Path) -> figures.Spent:
    """Ask Swarm for copies, and wait until all of them run."""
    words = f"--detach --name bench --replicas {copies} --no-resolve-image flotilla-bench:1 /bin/busybox sleep 1000000"
    there = f"docker service ls --filter name=bench --format '{{{{.Replicas}}}}' | grep -q '^{copies}/{copies}'"
    command = f"docker service create {words} && until {there}; do sleep 0.5; done"
    spent = lab.measured([*lab.ssh(lab.names[0]), command], log, _WAIT).spent
    if (count := running(lab)) != copies:
        raise BenchError(f"{count} copies run and not {copies}, though Swarm says that all do")
    return spent


def remove(lab: Lab) -> None:
    lab.on(lab.names[0], "docker service rm bench")
    wait("Swarm's copies to be gone", _WAIT, lambda: running(lab) == 0)


def measure_swarm(lab: Lab, options: argparse.Namespace, logs: Path, progress: Progress) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"deploy": [], "cpu": [], "failover": []}
    log = logs / "deploy-swarm.log"
    for _ in range(options.tries):
        spent = create(lab, options.copies, log)
        found["deploy"].append(spent.wall)
        found["cpu"].append(spent.cpu)
        progress.say(f"Swarm: {options.copies} copies run after {spent.wall:.1f} s; {told(spent)}")
        remove(lab)
    for _ in range(options.tries):
        create(lab, _SPARE_COPIES, log)
        leader = lab.on(
            lab.names[0], "docker node ls --filter role=manager --format '{{.Hostname}} {{.ManagerStatus}}'"
        )
        leaders = {line.split()[0] for line in leader.splitlines() if "Leader" in line}
        victim = figures.choose_victim(lab.names, leaders | {lab.names[0]}, set(lab.names))
        found["failover"].append(fail_over(lab, victim, _SPARE_COPIES, progress))
        progress.say(f"Swarm: all copies run again after {found['failover'][-1]:.1f} s")
        lab.start(victim)
        wait(f"{victim} back in Swarm", 180, ready(lab, victim))
        remove(lab)
    return found


def ready(lab: Lab, name: str) -> Callable[[], bool]:
    return lambda: "Ready" in lab.on(lab.names[0], f"docker node ls --filter name={name} --format '{{{{.Status}}}}'")


# -- all of it ---------------------------------------------------------------------------------


def report(ours: Mapping[str, Sequence[float]], beside: Mapping[str, Sequence[float]]) -> str:
    """The table: medians of each, the ratio, and whether that is the goal."""
    rows = [["what", "ours", "beside", "ratio", "goal", ""]]
    for key, (text, goal, unit) in GOALS.items():
        if not ours.get(key):
            continue
        mine = statistics.median(ours[key])
        if unit:
            rows.append([text, f"{mine:.2f}", "", "", f"{goal:g} {unit}", "" if mine <= goal else "MISSED"])
        elif beside.get(key):
            ratio = figures.ratio(ours[key], beside[key])
            theirs = f"{statistics.median(beside[key]):.2f}"
            judged = [f"{goal:g}", "" if ratio <= goal else "MISSED"] if math.isfinite(goal) else ["", ""]
            rows.append([text, f"{mine:.2f}", theirs, f"{ratio:.2f}", *judged])
    return figures.table(rows)


def bench(options: argparse.Namespace) -> None:
    """Measure, print, keep."""
    progress = Progress()
    logs = OUTPUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    order = Order(
        cluster=options.cluster,
        hosts=3,
        prefix="bd-",
        packages="installed",
        variables={"fleet_agent_ttl": f"{TTL}s"},
    )
    results: dict[str, Any] = {"copies": options.copies}
    with Lab(order, Path("/run") / f"flotilla-{options.cluster}", progress) as lab:
        progress.say("running playbooks/site.yml")
        lab.play(logs / "deploy-site.log", _PLAY_TIMEOUT)
        lab.on_all(_IMAGE)
        units, bare = measure_starts(lab, options.starts)
        ours = results["ours"] = {**measure_ours(lab, options, logs, progress), "unit": units}
        beside = results["beside"] = {"unit": bare}
        if not options.ours:
            progress.say("making a Swarm of the hosts")
            make_swarm(lab)
            beside.update(measure_swarm(lab, options, logs, progress))
    path = write_results("deploy", results)
    print(f"\n{report(ours, beside)}\n\nresults: {path}", flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; bad ones end the program with one sentence."""
    parser = argparse.ArgumentParser(prog="bench_deploy.py", description="Containers deployed, beside Swarm's.")
    parser.add_argument("--tries", type=int, default=2, metavar="N", help="tries of each (%(default)s)")
    parser.add_argument("--copies", type=int, default=100, metavar="N", help="how many containers (%(default)s)")
    parser.add_argument("--starts", type=int, default=10, metavar="N", help="starts of one container (%(default)s)")
    parser.add_argument("--ours", action="store_true", help="without Swarm")
    parser.add_argument("--cluster", default=CLUSTER, metavar="NAME", help="name of the cluster (%(default)s)")
    options = parser.parse_args(arguments)
    for name, low, high in (("tries", 1, 20), ("copies", 1, 500), ("starts", 1, 100)):
        value = getattr(options, name)
        if not low <= value <= high:
            parser.error(f"--{name} {value} is not possible: give {low} to {high}")
    return options


if __name__ == "__main__":
    chosen = parse()
    sys.exit(main("bench_deploy.py", lambda: bench(chosen), ValueError))
