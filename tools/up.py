# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``make up`` runs: local hosts, the play that makes them a cluster, and a look at the result.

The play is left out when the cluster is as the last successful one left it: same sources, same inventory, no host was
switched on since, and fleet shows every machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from localhosts import cluster as clusters
from localhosts import guest, image
from localhosts.plan import HostsError
from localhosts.system import Progress, locked, write_file

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = "local"
PLAYBOOK = Path("playbooks/site.yml")
INVENTORY = Path("inventories/local")

#: What decides how the hosts end up. The tools' lock file stands for ansible-core and community.crypto.
SOURCES = ("ansible.cfg", "fleet", str(INVENTORY), "playbooks", "plugins", "requirements/dev.txt", "roles")

_PLAY_TIMEOUT = 1800.0  # seconds that a second run waits for the first
_LOOK_TIMEOUT = 20.0

HINTS = """\
What to try next:
  make ssh HOST={host}                            a shell on a machine; CMD='fleetctl list-units' runs one command
  make ssh CMD='cat >hello.service && fleetctl start hello.service' <examples/units/hello.service
  .venv/bin/ansible-playbook playbooks/demo.yml    units from examples/ start, a machine dies, its unit moves
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring the cluster up; 0 when every machine is in it, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="up.py", description="Bring up a cluster of local hosts.")
    parser.add_argument("--hosts", type=int, default=3, metavar="N", help="how many hosts (%(default)s)")
    parser.add_argument(
        "--packages",
        choices=image.CHOICES,
        default="cached",
        help="the roles' Debian packages in the image (%(default)s)",
    )
    options = parser.parse_args(arguments)
    progress = Progress()
    try:
        if os.geteuid() != 0:
            raise HostsError("local hosts are made by root: run this as root")
        with locked(guest.RUNTIME / ".locks" / f"{CLUSTER}.play", progress, "the play on local hosts", _PLAY_TIMEOUT):
            bring_up(options.hosts, options.packages, progress)
    except HostsError as error:
        print(f"up.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("up.py: interrupted; run it again to go on, or 'make down' to clean up", file=sys.stderr)
    else:
        return 0
    return 1


def bring_up(hosts: int, packages: str, progress: Progress) -> None:
    """Start what is missing, run the play unless it has nothing to do, print what fleet shows.

    Raises HostsError when hosts do not start, the play fails, or a machine is missing in fleet afterwards.
    """
    inventory = ROOT / INVENTORY / "hosts.yml"
    order = clusters.Order(cluster=CLUSTER, hosts=hosts, packages=packages, inventory=inventory)
    result = clusters.up(order, progress)
    count = len(result.cluster.hosts)
    first = result.cluster.hosts[0].name
    stamp = clusters.directory(CLUSTER) / "play.json"
    fingerprint = content_hash(ROOT, SOURCES)

    if not result.started and _read_stamp(stamp) == fingerprint:
        seen = look(first)
        if machine_count(seen.machines) == count:
            progress.say(f"the cluster is there: {count} machines, set up from these sources already")
            _show(first, seen)
            return
        progress.say(f"fleet on {first} does not show {count} machines ({seen.problem or 'others'}): running the play")
    stamp.unlink(missing_ok=True)
    _play(progress)
    seen = look(first)
    if machine_count(seen.machines) != count:
        raise HostsError(
            f"the play has ended, but fleetctl list-machines on {first} does not show {count} machines"
            f" ({seen.problem or seen.machines}): look at make ssh HOST={first} CMD='journalctl -u fleet'"
        )
    write_file(stamp, json.dumps({"sources": fingerprint}))
    progress.say(f"the cluster is up: {count} machines")
    _show(first, seen)


def files_of(root: Path, sources: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """(path within root, file) of each source file, in order; hidden files and compiled Python are left out."""
    for source in sources:
        top = root / source
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            parts = path.relative_to(root).parts
            if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
                yield "/".join(parts), path


def content_hash(root: Path, sources: Iterable[str]) -> str:
    """A hash of the names and contents of all source files."""
    total = hashlib.sha256()
    for name, path in files_of(root, sources):
        total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()


def _read_stamp(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@dataclass(frozen=True)
class View:
    """What fleetctl printed on a host; ``problem`` is empty when both commands worked."""

    machines: str
    units: str
    problem: str


def machine_count(listed: str) -> int:
    """Machines in the output of ``fleetctl list-machines``, which has one line of headings; 0 for no output."""
    return max(0, len(listed.splitlines()) - 1)


def look(host: str) -> View:
    """Ask fleet on a host, in one round trip, for its machines and units."""
    config = clusters.directory(CLUSTER) / "ssh_config"
    separator = "----8<----"
    command = f"fleetctl list-machines && echo '{separator}' && fleetctl list-units"
    try:
        done = subprocess.run(
            ["ssh", "-F", str(config), host, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LOOK_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return View("", "", f"no answer within {_LOOK_TIMEOUT:.0f} s")
    machines, _separator, units = done.stdout.partition(f"{separator}\n")
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return View(machines, units, said[-1] if done.returncode else "")


def _play(progress: Progress) -> None:
    program = Path(sys.executable).parent / "ansible-playbook"
    if not program.exists():
        raise HostsError(f"{program} is missing: run this with the Python of .venv, as 'make up' does")
    argv = [str(program), "-i", str(INVENTORY / "hosts.yml"), str(PLAYBOOK)]
    progress.say(f"running {' '.join(['ansible-playbook', *argv[1:]])}")
    path = f"{program.parent}:{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise HostsError(
            f"the play {PLAYBOOK} failed with exit code {done.returncode}: its output above says why;"
            " 'make up' goes on where it stopped"
        )


def _show(host: str, seen: View) -> None:
    for command, text in (("list-machines", seen.machines), ("list-units", seen.units)):
        print(f"\n{host}$ fleetctl {command}\n{text}", end="")
    print("\n" + HINTS.format(host=host), end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
