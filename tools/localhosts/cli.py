# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of tools/hosts.py."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import cluster, guest, image
from .plan import HostsError, check_cluster_name
from .system import Progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what it should, 1 when it could not, 2 when it was called wrongly."""
    options = _parser().parse_args(arguments)
    try:
        if os.geteuid() != 0:
            raise HostsError("local hosts are made and removed by root: run this as root")
        if "cluster" in options:
            check_cluster_name(options.cluster)
        return int(options.action(options, Progress()) or 0)
    except HostsError as error:
        print(f"hosts.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(
            "hosts.py: interrupted; run the same command again to go on, or 'down' to clean up",
            file=sys.stderr,
        )
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hosts.py",
        description="Local machines (systemd-nspawn) for make up, Molecule, fault tests and benchmarks.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, action: object, text: str, host: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        if name != "base":
            sub.add_argument("--cluster", required=True, metavar="NAME", help="which cluster")
        if host:
            sub.add_argument("host", metavar="HOST", help="name of a host, such as core-01")
        return sub

    base = command(
        "base",
        _base,
        "install what local hosts need and build the base image, if that is not done yet",
    )
    made = command("up", _up, "make a cluster or complete one: hosts that run are left alone")
    settled = command("plan", _plan, "settle names, addresses, keys and network as up does, but switch nothing on")
    for sub in (base, made, settled):
        sub.add_argument(
            "--packages",
            choices=image.CHOICES,
            default="cached",
            help="the roles' Debian packages in the image (%(default)s)",
        )
        sub.add_argument("--suite", metavar="CODENAME", help="Debian release of the hosts (the machine's own)")
    base.add_argument(
        "--rebuild",
        action="store_true",
        help="build again, with today's packages; no cluster may exist",
    )
    for sub in (made, settled):
        sub.add_argument("--hosts", type=int, metavar="N", help="how many hosts (as many as there are, at first 3)")
        sub.add_argument("--prefix", help="host names are PREFIX and a number (core-)")
        sub.add_argument("--inventory", type=Path, metavar="FILE", help="write an Ansible inventory here as well")
        sub.add_argument(
            "--var",
            action="append",
            metavar="NAME=VALUE",
            help="a variable for all hosts in the inventory; VALUE is JSON or text",
        )
    made.add_argument(
        "--files",
        type=Path,
        metavar="DIR",
        help="lay DIR/HOST/ over each new host's disk before its first boot",
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to wait for ssh (%(default)s)",
    )

    down = command("down", _down, "switch a cluster off and remove it: hosts, disks, keys, network")
    down.add_argument("--all", action="store_true", help="remove the inventory files written for it, too")
    started = command("start", _start, "switch a host on with the disk it had", host=True)
    started.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to wait for ssh (%(default)s)",
    )
    command("stop", _stop, "switch a host off cleanly", host=True)
    command("kill", _kill, "end a host as a power failure does", host=True)
    parted = command("partition", _partition, "drop everything between a host and others", host=True)
    parted.add_argument("peers", nargs="*", metavar="PEER", help="the others (all hosts of the cluster)")
    parted.add_argument("--one-way", action="store_true", help="drop only what HOST sends")
    healed = command("heal", _heal, "undo partitions")
    healed.add_argument("host", nargs="?", metavar="HOST", help="only those of this host (all)")
    healed.add_argument("peers", nargs="*", metavar="PEER", help="only those between HOST and these")
    shell = command("ssh", _ssh, "open a shell on a host or run a command there", host=True)
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="the command (a shell)")
    shown = command("status", _status, "show the hosts of a cluster")
    shown.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _base(options: argparse.Namespace, progress: Progress) -> None:
    layers = cluster.ensure_image(options.packages, options.suite, options.rebuild, progress)
    progress.say(f"the base image is there: {' + '.join(str(image.BASE / key) for key in layers)}")


def _order(options: argparse.Namespace) -> cluster.Order:
    variables = dict(_variable(text) for text in options.var) if options.var else None
    return cluster.Order(
        cluster=options.cluster,
        hosts=options.hosts,
        prefix=options.prefix,
        packages=options.packages,
        suite=options.suite,
        inventory=options.inventory,
        variables=variables,
    )


def _up(options: argparse.Namespace, progress: Progress) -> None:
    order = replace(_order(options), timeout=options.timeout, files=options.files)
    name = cluster.up(order, progress).cluster.name
    progress.say(f"cluster {name} is up; inventory: {cluster.directory(name) / 'inventory.yml'}")


def _plan(options: argparse.Namespace, progress: Progress) -> None:
    name = cluster.prepare(_order(options), progress).name
    progress.say(f"cluster {name} is planned; inventory: {cluster.directory(name) / 'inventory.yml'}")


def _variable(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise HostsError(f"--var {text!r} is not understood: write NAME=VALUE with NAME as in Ansible")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _down(options: argparse.Namespace, progress: Progress) -> None:
    cluster.down(options.cluster, options.all, progress)


def _start(options: argparse.Namespace, progress: Progress) -> None:
    cluster.start_host(options.cluster, options.host, options.timeout, progress)


def _stop(options: argparse.Namespace, progress: Progress) -> None:
    cluster.stop_host(options.cluster, options.host, progress)


def _kill(options: argparse.Namespace, progress: Progress) -> None:
    cluster.kill_host(options.cluster, options.host, progress)


def _partition(options: argparse.Namespace, progress: Progress) -> None:
    cluster.part(options.cluster, options.host, options.peers, options.one_way, progress)


def _heal(options: argparse.Namespace, progress: Progress) -> None:
    cluster.heal(options.cluster, options.host, options.peers, progress)


def _ssh(options: argparse.Namespace, progress: Progress) -> int:
    del progress
    known = cluster.load(options.cluster)
    host = known.host(options.host)
    if not guest.is_running(guest.Place(known.name, host.name)):
        raise HostsError(f"{host.name} is off: switch it on with 'start --cluster {known.name} {host.name}'")
    config = cluster.directory(known.name) / "ssh_config"
    words = options.command[1:] if options.command[:1] == ["--"] else options.command
    os.execvp("ssh", ["ssh", "-F", str(config), host.name, *words])


def _status(options: argparse.Namespace, progress: Progress) -> None:
    del progress
    rows = cluster.status(cluster.load(options.cluster))
    if options.json:
        print(json.dumps([row.__dict__ for row in rows], indent=1))
        return
    print(f"{'HOST':<16} {'ADDRESS':<15} {'STATE':<8} {'UPTIME':>9}  CANNOT SEND TO")
    for row in rows:
        state = "off" if row.uptime is None else "running"
        uptime = "-" if row.uptime is None else f"{row.uptime:.0f} s"
        print(f"{row.name:<16} {row.address:<15} {state:<8} {uptime:>9}  {', '.join(row.cut_from) or '-'}")
