# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys written by a play, writes that the role's etcd takes, and what day two cost: ``make bench-etcd``.

Three fresh hosts get etcd from the role. One play puts 1, 100 and 1,000 keys with our module, another one loops over
community.general.etcd3. Then ``etcdctl check perf`` runs on the role's cluster and on the same program started by hand
with the same certificates and data, in turns. What ``make test-etcd`` measured last is printed below, if it ran.

Absolute times say little on a shared machine: read the ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import figures
from lab import OUTPUT, ROOT, BenchError, Lab, Order, Progress, main, write_results

COUNTS = (1, 100, 1000)
#: The most that our play may take for so many keys, in times of the loop.
KEY_GOALS = {1: 1.0, 100: 0.03, 1000: 0.005}
WRITES_GOAL = 0.95
PAUSE_GOAL = 1.0  # seconds
RESTORE_GOAL = 30.0  # seconds
PERF_SECONDS = 60  # how long etcdctl check perf writes

DAYTWO = ROOT / "tests/output/etcd-daytwo.json"
#: What the module of community.general needs, from PyPI. It works with today's protobuf only without its C part.
ETCD3 = ("etcd3==0.12.0",)
PURE = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}

_TIMEOUT = 900.0
_PKI = "/etc/flotilla/pki"
_FILES = {"ca_cert": "etcd-client-ca.crt", "client_cert": "etcd-client.crt", "client_key": "etcd-client.key"}

_START = "/var/lib/etcd-at-start"
#: Starts a member as an operator would by hand, with the data that the role's has: sh -s NAME ADDRESS.
_BY_HAND = rf"""
set -eu
rm -rf /var/lib/etcd-by-hand
cp --archive {_START} /var/lib/etcd-by-hand
cd /etc/flotilla/pki
systemd-run --quiet --unit=by-hand --property=LimitNOFILE=65536 "$(readlink -f "$(command -v etcd)")" \
    --name="$1" --data-dir=/var/lib/etcd-by-hand \
    --listen-client-urls="https://$2:2379,https://127.0.0.1:2379" --advertise-client-urls="https://$2:2379" \
    --listen-peer-urls="https://$2:2380" --initial-advertise-peer-urls="https://$2:2380" \
    --client-cert-auth \
    --trusted-ca-file="$PWD/etcd-client-ca.crt" --cert-file="$PWD/etcd-server.crt" --key-file="$PWD/etcd-server.key" \
    --peer-client-cert-auth --peer-trusted-ca-file="$PWD/etcd-peer-ca.crt" \
    --peer-cert-file="$PWD/etcd-peer.crt" --peer-key-file="$PWD/etcd-peer.key"
"""
_STOP = "systemctl stop etcd by-hand 2>/dev/null; systemctl reset-failed by-hand 2>/dev/null; :"


class Keys:
    """Plays that put keys, from here onto the hosts' etcd."""

    def __init__(self, lab: Lab, logs: Path) -> None:
        self.lab = lab
        self.logs = logs
        self.folder = lab.folder / "keys"
        self.folder.mkdir()
        self.host = lab.names[0]
        self.address = lab.address(self.host)
        self.files: dict[str, str] = {}
        for option, name in _FILES.items():
            path = self.folder / name
            path.touch(0o600)
            path.write_text(lab.on(self.host, f"cat {_PKI}/{name}"))
            self.files[option] = str(path)
        password = lab.etcd_password()
        self.login = {"username": "root", "password": password} if password else {}
        self.round = 0
        self.python = Path(sys.executable)
        self.loops = "community.general.etcd3"
        self.why = self._etcd3()

    def _etcd3(self) -> str:
        """Makes a Python with the library etcd3 for the loop, or says why it is our own module that is looped over."""
        python = self.folder / "venv/bin/python"
        uv = Path(sys.executable).with_name("uv")
        commands = [
            [str(uv), "venv", "--quiet", str(self.folder / "venv"), "--python", sys.executable],
            [str(uv), "pip", "install", "--quiet", "--python", str(python), *ETCD3],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                return self._ourselves(f"etcd3 cannot be installed: {done.stderr.strip()[-300:]}")
        self.python = python
        try:
            self.loop(1)
        except BenchError as error:
            self.python = Path(sys.executable)
            return self._ourselves(f"community.general.etcd3 fails: {str(error).strip().splitlines()[0][:300]}")
        return ""

    def _ourselves(self, why: str) -> str:
        self.loops = "flotilla.cluster.etcd_kv"
        return why

    def put(self, count: int) -> dict[str, Any]:
        """What a play with one task of ours costs."""
        # as they stand in a file of somebody's: an expression that makes them up would be measured too
        keys = {f"/bench/kv/{number}": self._stamp() for number in range(count)}
        return self._play("kv", count, self._ours({"keys": keys}), sys.executable)

    def loop(self, count: int) -> dict[str, Any]:
        """What a play that loops over keys costs."""
        key, loop = "/bench/loop/{{ item }}", {"loop": f"{{{{ range({count}) | list }}}}"}
        if self.loops == "flotilla.cluster.etcd_kv":
            task = self._ours({"keys": [{"key": key, "value": self._stamp()}]})
        else:
            access = {"host": self.address, "port": 2379, "ca_cert": self.files["ca_cert"]}
            access |= {name: self.files[name] for name in ("client_cert", "client_key")}
            access |= {name.replace("username", "user"): value for name, value in self.login.items()}
            task = {self.loops: {**access, "key": key, "value": self._stamp(), "state": "present"}}
        return self._play("loop", count, {**task, **loop}, str(self.python))

    def _ours(self, arguments: dict[str, Any]) -> dict[str, Any]:
        access = {"endpoints": [f"https://{self.address}:2379"], **self.files, **self.login}
        return {"flotilla.cluster.etcd_kv": {**access, **arguments}}

    def _stamp(self) -> str:
        """What the next play writes."""
        return f"round {self.round + 1}"

    def _play(self, kind: str, count: int, task: dict[str, Any], python: str) -> dict[str, Any]:
        stamp = self._stamp()
        self.round += 1
        label = f"etcd-{kind}-{count}-{self.round}"
        path = self.folder / f"{label}.yml"
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
        play["vars"] = {"ansible_python_interpreter": python}
        path.write_text(json.dumps([play]))
        program = Path(sys.executable).with_name("ansible-playbook")
        settings = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_DISPLAY_OK_HOSTS": "false", **PURE}
        done = self.lab.measured(
            [str(program), "-i", "localhost,", str(path)], self.logs / f"{label}.log", _TIMEOUT, settings
        )
        shown = self.lab.on(
            self.host, self.lab.etcdctl() + f"get --prefix --print-value-only /bench/{kind}/ | grep -cx '{stamp}'"
        )
        if int(shown) != count:
            raise BenchError(f"{label} put {shown.strip()} keys, and it should put {count}")
        return {"keys": count, "wall": done.spent.wall, "load": done.spent.load}


def measure_keys(lab: Lab, logs: Path, tries: int, progress: Progress) -> dict[str, Any]:
    """Seconds of each play: ours with 1, 100 and 1,000 keys, and the loop with 1 and 100."""
    keys = Keys(lab, logs)
    if keys.why:
        progress.say(f"{keys.why}; in its place we loop over our own module")
    found: dict[str, Any] = {"loops": keys.loops, "why": keys.why, "ours": [], "loop": []}
    for number in range(tries):
        found["ours"] += [keys.put(count) for count in COUNTS]
        found["loop"].append(keys.loop(1))
        if not number:
            found["loop"].append(keys.loop(100))
        progress.say(
            f"keys, try {number + 1} of {tries}: {figures.seconds_of(found['ours'], 1000)[-1]:.1f} s for 1,000"
        )
    return found


def switch(lab: Lab, side: str) -> None:
    """Run the role's members, or those started by hand, and wait until all are healthy."""
    if side == "role":
        lab.on_all(f"{_STOP}; rm -rf /var/lib/etcd-by-hand")
        lab.on_all("systemctl start etcd")
    else:
        # stopped everywhere first: a member that is left of the other side would hold the port
        lab.on_all(_STOP)
        for name in lab.names:
            lab.on(name, f"sh -s {name} {lab.address(name)}", _BY_HAND)
    wait = f"for i in $(seq 60); do {lab.etcdctl()}endpoint health >/dev/null 2>&1 && exit 0; sleep 0.5; done; exit 1"
    lab.on(lab.names[0], wait)
    level(lab)


def keep_start(lab: Lab) -> None:
    """Keep the role's data for the other side: what members have behind them costs each write something."""
    lab.on_all(f"{_STOP}; rm -rf {_START} && cp --archive /var/lib/etcd {_START}")


def level(lab: Lab) -> None:
    """Take away what makes one run's work more than another's: old revisions, and a leader that is further away."""
    first, address = lab.names[0], lab.address(lab.names[0])
    etcdctl = lab.etcdctl()
    statuses = json.loads(lab.on(first, etcdctl + "endpoint status --cluster --write-out=json"))
    headers = {urlsplit(one["Endpoint"]).hostname: one["Status"]["header"] for one in statuses}
    revision = max(header["revision"] for header in headers.values())
    patient = "--command-timeout=60s"  # for half a million revisions it waits
    emptied = f"{etcdctl}compact {patient} --physical {revision} && etcdctl defrag {patient} --cluster"
    lab.on(first, emptied, timeout=180)
    leader = figures.etcd_leader(statuses)
    if leader != address:
        # only the leader gives its part away
        lab.on(first, f"{lab.etcdctl(f'https://{leader}:2379')}move-leader {headers[address]['member_id']:x}")


def measure_writes(
    lab: Lab, loads: list[str], tries: int, logs: Path, progress: Progress, found: list[dict[str, Any]]
) -> None:
    """Add to ``found`` writes a second of both sides, in turns, with each load."""
    for number in range(tries):
        for load in loads:
            sides = ["role", "hand"] if number % 2 == 0 else ["hand", "role"]
            keep_start(lab)
            for side in sides:
                switch(lab, side)
                command = [*lab.ssh(lab.names[0]), lab.etcdctl() + f"check perf --load={load} 2>&1 || :"]
                done = lab.measured(command, logs / f"etcd-perf-{load}-{side}-{number + 1}.log", 240)
                seen = figures.check_perf(done.output)
                spent = {"cpu": done.spent.hosts, "others": done.spent.others, "load_average": done.spent.load}
                found.append({"try": number + 1, "load": load, "side": side, **seen, **spent})
                progress.say(
                    f"writes, load {load}, {side}: {seen['writes']}/s, {'PASS' if seen['passed'] else 'FAIL'};"
                    f" hosts {spent['cpu']:.0f} CPU s, others {spent['others']:.0f}"
                )


def report_keys(found: dict[str, Any]) -> list[str]:
    """Lines for keys put by a play."""
    loop = {count: min(figures.seconds_of(found["loop"], count)) for count in (1, 100)}
    loop[1000] = figures.extrapolated(loop[1], loop[100], 1000)
    rows = [["keys put by one play", f"loop over {found['loops']}, s", "one etcd_kv, s", "times", "goal", ""]]
    for count in COUNTS:
        ours = figures.seconds_of(found["ours"], count)
        times = min(ours) / loop[count]
        rows.append(
            [
                f"{count:,}",
                f"{loop[count]:.1f}" + (" (from 100)" if count == 1000 else ""),
                figures.spread(ours),
                f"{times:.4f}",
                f"{KEY_GOALS[count]}",
                met(times <= KEY_GOALS[count]),
            ]
        )
    return [figures.table(rows), *([f"not community.general.etcd3: {found['why']}"] if found["why"] else [])]


def report_writes(found: list[dict[str, Any]]) -> list[str]:
    """Lines for writes a second."""
    # a busy machine shares its processors as it likes: what a write costs says more there than how many came through
    rows = [["etcdctl check perf", "by hand /s", "role /s", "times", "goal", "", "CPU us a write", "role", "times"]]
    for load in dict.fromkeys(one["load"] for one in found):
        sides = {
            side: [one["writes"] for one in found if one["load"] == load and one["side"] == side]
            for side in ("hand", "role")
        }
        costs = {
            side: [
                one["cpu"] / (one["writes"] * PERF_SECONDS) * 1e6
                for one in found
                if one["load"] == load and one["side"] == side
            ]
            for side in ("hand", "role")
        }
        times = figures.ratio(sides["role"], sides["hand"])
        rows.append(
            [
                f"load {load}",
                *(figures.spread(sides[side], 0) for side in ("hand", "role")),
                f"{times:.2f}",
                f"{WRITES_GOAL}",
                met(times >= WRITES_GOAL),
                *(figures.spread(costs[side], 0) for side in ("hand", "role")),
                f"{figures.ratio(costs['role'], costs['hand']):.2f}",
            ]
        )
    passed = [one["passed"] for one in found if one["load"] == "m" and one["side"] == "role"]
    lines = [figures.table(rows)] if found else []
    return lines + ([f"load m passes on the role's cluster: {met(all(passed))}"] if passed else [])


def report_daytwo(path: Path) -> list[str]:
    """Lines for what ``make test-etcd`` measured."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        found = {}
    if not found:
        return [f"day two: nothing in {path}; make test-etcd measures it"]
    rows = [["day two, last make test-etcd", "seconds", "writes", "lost", "longest pause", "goal", ""]]
    for what, one in found.items():
        if "pause" in one:
            good = not one["lost"] and one["pause"] < PAUSE_GOAL
            pause = f"{one['pause']:.2f} s"
            rows.append(
                [what, str(one["seconds"]), str(one["acknowledged"]), str(one["lost"]), pause, "0 lost, 1 s", met(good)]
            )
        elif what == "restore":
            rows.append([what, str(one["seconds"]), "", "", "", "30 s", met(one["seconds"] < RESTORE_GOAL)])
    return [figures.table(rows)]


def met(good: bool) -> str:
    return "met" if good else "MISSED"


def bench(options: argparse.Namespace) -> None:
    """Measure, print, keep."""
    progress = Progress()
    logs = OUTPUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"hosts": 3, "keys": None, "writes": []}
    folder = Path("/run") / f"flotilla-{options.cluster}"
    order = Order(cluster=options.cluster, hosts=3, prefix="be-", variables={"pki_directory": str(folder / "pki")})
    try:
        with Lab(order, folder, progress) as lab:
            lab.play(logs / "etcd-up.log", _TIMEOUT, playbook="tests/daytwo/cluster.yml")
            results["version"] = lab.on(lab.names[0], "etcd --version | head -n 1").strip()
            progress.say(f"{results['version']} on {', '.join(lab.names)}")
            if "keys" in options.parts:
                results["keys"] = measure_keys(lab, logs, options.tries, progress)
            if "writes" in options.parts:
                # told as far as it came, even if something fails
                measure_writes(lab, options.loads, options.perf_tries, logs, progress, results["writes"])
    finally:
        path = write_results("etcd", results)
        lines = [
            *(report_keys(results["keys"]) if results["keys"] else []),
            *report_writes(results["writes"]),
            *report_daytwo(DAYTWO),
        ]
        print("\n" + "\n\n".join(lines), flush=True)
        print(f"\nresults: {path}\nlogs: {logs}", flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Options; bad ones end the program with one sentence."""
    parser = argparse.ArgumentParser(prog="bench_etcd.py", description="Keys by a play, and writes of the role's etcd.")
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="tries of the plays (%(default)s)")
    parser.add_argument("--perf-tries", type=int, default=2, metavar="N", help="tries of each load (%(default)s)")
    parser.add_argument("--loads", nargs="*", choices=["s", "m", "l", "xl"], default=["m", "l"], help="(m l)")
    parser.add_argument("--parts", nargs="+", choices=["keys", "writes"], default=["keys", "writes"], help="(both)")
    parser.add_argument("--cluster", default="bench", metavar="NAME", help="name of the local hosts (%(default)s)")
    options = parser.parse_args(arguments)
    for name in ("tries", "perf_tries"):
        if not 1 <= getattr(options, name) <= 20:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)} is not possible: give 1 to 20")
    return options


if __name__ == "__main__":
    chosen = parse()
    sys.exit(main("bench_etcd.py", lambda: bench(chosen), ValueError))
