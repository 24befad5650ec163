# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The play beside a script that does the minimum: ``make bench-up``.

Each try makes fresh hosts twice, for by_hand.sh and for playbooks/site.yml, and takes turns in which comes first. The
hosts have the packages as files in apt's cache, or installed. Absolute times say little on a shared machine: read the
ratios, and what others used of the processors meanwhile.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import figures
from lab import OUTPUT, BenchError, Lab, Order, Progress, main, write_results

HERE = Path(__file__).resolve().parent
CLUSTER = "bench"

#: The most that the play may take, in times of the script.
GOALS = {"cached": 1.5, "installed": 3.0}
SECOND_RUN_GOAL = 5.0  # seconds

_TIMEOUT = 600.0
_SLOWEST = 12

#: Certificates that may speak with etcd, below /etc/flotilla/pki: authority and name.
_BY_HAND = ("ca", "host")
_BY_PLAY = ("etcd-client-ca", "etcd-client")

#: Prints what this host sees of the cluster: sh -s AUTHORITY NAME
_LOOK = r"""
set -eu
cd /etc/flotilla/pki
healthy=$(ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --cacert="$1.crt" --cert="$2.crt" --key="$2.key" \
    endpoint health --cluster 2>&1 | grep -c 'is healthy' || :)
docker info >/dev/null
python3 -I - "$healthy" <<'END'
import http.client, json, socket, sys
api = http.client.HTTPConnection("fleet")
api.sock = socket.socket(socket.AF_UNIX)
api.sock.connect("/run/fleet.sock")
api.request("GET", "/fleet/v1/machines")
machines = json.load(api.getresponse()).get("machines", [])
print(f"{sys.argv[1]} healthy members of etcd, {len(machines)} machines in fleet")
END
"""


def check(lab: Lab, certificate: tuple[str, str]) -> None:
    """Raise BenchError unless every host sees a whole cluster."""
    count = len(lab.names)
    whole = f"{count} healthy members of etcd, {count} machines in fleet"
    for host, seen in lab.on_all(f"sh -s {' '.join(certificate)}", _LOOK).items():
        if seen.strip() != whole:
            raise BenchError(f"{host} sees {seen.strip()}, and it should be {whole}")


def by_hand(lab: Lab, logs: Path, label: str) -> dict[str, Any]:
    """What the script cost on fresh hosts."""
    hosts = [f"{name}={lab.address(name)}" for name in lab.names]
    argv = [str(HERE / "by_hand.sh"), str(lab.ssh_config), str(lab.folder / "by-hand"), *hosts]
    done = lab.measured(argv, logs / f"{label}.log", _TIMEOUT)
    check(lab, _BY_HAND)
    return {"first": asdict(done.spent), "steps": done.output.splitlines()}


def by_play(lab: Lab, logs: Path, label: str) -> dict[str, Any]:
    """What the play cost on fresh hosts, and a second time."""
    settings = {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks", "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all"}
    first = lab.play(logs / f"{label}.log", _TIMEOUT, **settings)
    check(lab, _BY_PLAY)
    second = lab.play(logs / f"{label}-second.log", _TIMEOUT, **settings)
    return {
        "first": asdict(first.spent),
        "profile": figures.profile(first.output),
        "second": asdict(second.spent),
        "second_profile": figures.profile(second.output),
        "second_changed": figures.changed(second.output),
    }


def one_try(variant: str, number: int, hosts: int, logs: Path, progress: Progress) -> dict[str, Any]:
    """One try of both sides, each on hosts of its own."""
    sides = [("script", by_hand), ("play", by_play)]
    result: dict[str, Any] = {"variant": variant, "try": number}
    for side, run in sides if number % 2 else reversed(sides):
        folder = Path("/run") / f"flotilla-{CLUSTER}"
        order = Order(cluster=CLUSTER, hosts=hosts, prefix="b-", packages=variant)
        with Lab(order, folder, progress) as lab:
            result[side] = run(lab, logs, f"{variant}-{number}-{side}")
        spent = figures.Spent(**result[side]["first"])
        progress.say(
            f"{variant}, try {number}, {side}: {spent.wall:.1f} s, {spent.cpu:.1f} CPU s, load {spent.load:.1f}"
        )
    return result


def report(variant: str, tries: list[dict[str, Any]]) -> str:
    """The text for one variant."""
    runs = {
        "script": [figures.Spent(**one["script"]["first"]) for one in tries],
        "play": [figures.Spent(**one["play"]["first"]) for one in tries],
        "play, second run": [figures.Spent(**one["play"]["second"]) for one in tries],
    }
    base = runs["script"]
    rows = [["", "wall s", "times", "CPU s", "times", "of it here", "hosts", "others", "stolen", "load"]]
    for name, spent in runs.items():
        rows.append(
            [
                name,
                figures.spread([one.wall for one in spent]),
                f"{figures.ratio([one.wall for one in spent], [one.wall for one in base]):.2f}",
                figures.spread([one.cpu for one in spent]),
                f"{figures.ratio([one.cpu for one in spent], [one.cpu for one in base]):.2f}",
                *(
                    figures.spread([getattr(one, field) for one in spent])
                    for field in ("controller", "hosts", "others", "stolen", "load")
                ),
            ]
        )
    first = figures.ratio([one.wall for one in runs["play"]], [one.wall for one in base])
    second = figures.spread([one.wall for one in runs["play, second run"]])
    again = sum(sum(one["play"]["second_changed"].values()) for one in tries)
    met = {True: "met", False: "MISSED"}
    lines = [
        f"\n{variant} packages, {len(tries)} tries: median (smallest-largest)",
        figures.table(rows),
        f"play / script: {first:.2f}, goal at most {GOALS[variant]}: {met[first <= GOALS[variant]]}",
        f"second run: {second} s, goal at most {SECOND_RUN_GOAL:.0f} s:"
        f" {met[max(one.wall for one in runs['play, second run']) <= SECOND_RUN_GOAL]}; changed={again}",
    ]
    for title, key in (("first", "profile"), ("second", "second_profile")):
        slowest = figures.median_profile([one["play"][key] for one in tries])
        tasks = [["slowest tasks, " + title + " run", "median s"]]
        tasks += [[name, f"{seconds:.2f}"] for name, seconds in slowest[:_SLOWEST]]
        tasks += [["all tasks", f"{sum(seconds for _name, seconds in slowest):.2f}"]]
        lines += ["", figures.table(tasks)]
    return "\n".join(lines)


def bench(options: argparse.Namespace) -> None:
    """Measure, print, keep."""
    progress = Progress()
    logs = OUTPUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    variants = list(GOALS) if options.variant == "both" else [options.variant]
    results: list[dict[str, Any]] = []
    try:
        # Variants take turns as well: what disturbs the machine for a while must not hit one of them only.
        for number in range(1, options.tries + 1):
            for variant in variants:
                results.append(one_try(variant, number, options.hosts, logs, progress))
    finally:
        if results:
            path = write_results("up", {"hosts": options.hosts, "tries": results})
            for variant in variants:
                tries = [one for one in results if one["variant"] == variant]
                print(report(variant, tries) if tries else f"\n{variant} packages: no try was finished", flush=True)
            print(f"\nresults: {path}\nlogs: {logs}", flush=True)
    again = [one for one in results if any(one["play"]["second_changed"].values())]
    if again:
        raise BenchError(f"the play changed something when it ran again: {again[0]['play']['second_changed']}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; bad ones end the program with one sentence."""
    parser = argparse.ArgumentParser(prog="bench_up.py", description="The play beside a script that does the minimum.")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="tries of each (%(default)s)")
    parser.add_argument("--variant", choices=[*GOALS, "both"], default="both", help="packages (%(default)s)")
    parser.add_argument("--hosts", type=int, default=3, metavar="N", help="how many hosts (%(default)s)")
    options = parser.parse_args(arguments)
    if not 1 <= options.tries <= 50:
        parser.error(f"--tries {options.tries} is not possible: give 1 to 50")
    if options.hosts not in (1, 3, 5):
        parser.error(f"--hosts {options.hosts} is not possible: every host is a member of etcd, so give 1, 3 or 5")
    return options


if __name__ == "__main__":
    chosen = parse()
    sys.exit(main("bench_up.py", lambda: bench(chosen)))
