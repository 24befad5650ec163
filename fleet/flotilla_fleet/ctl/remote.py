# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""status, journal, ssh: what is done on a machine.

status, journal and restart go through fleetd, which asks the machine. Where it cannot (upstream's), or with ``--ssh``,
they are run here or through the user's own ssh program: its configuration, agent and known hosts are used as they are,
the flags only add to them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ..unitname import REMOVED_TYPES, UNIT_TYPES
from .client import ASK_TIMEOUT, Answer, Endpoint
from .errors import CtlError, UsageError
from .flags import Options
from .session import Session, err, local_machine_id, mangle
from .show import is_global

Json = dict[str, Any]

# unit@machine: a full unit name, then the beginning of a machine id, or an address
_AT_MACHINE = re.compile(rf"(.+\.(?:{'|'.join(UNIT_TYPES + REMOVED_TYPES)}))@([^@/]+)")


class Ssh(NamedTuple):
    """How to call the ssh program. Empty values leave it to ssh's own configuration."""

    user: str = ""
    port: int = 0
    timeout: int = 10
    check_host_keys: str = ""
    known_hosts: str = ""
    tunnel: str = ""
    forward_agent: bool = False

    @classmethod
    def from_options(cls, options: Options) -> Ssh:
        given = options.given
        check = "yes" if options.on("strict-host-key-checking") else "no"
        return cls(
            user=options.text("ssh-username"),
            port=options.number("ssh-port") if "ssh-port" in given else 0,
            timeout=max(int(options.seconds("ssh-timeout")), 1),
            check_host_keys=check if "strict-host-key-checking" in given else "",
            known_hosts=options.text("known-hosts-file"),
            tunnel=options.text("tunnel"),
            forward_agent=options.on("forward-agent") if "forward-agent" in given else False,
        )

    def options(self) -> list[str]:
        words = ["-o", f"ConnectTimeout={self.timeout}"]
        if self.check_host_keys:
            words += ["-o", f"StrictHostKeyChecking={self.check_host_keys}"]
        if self.known_hosts:
            words += ["-o", f"UserKnownHostsFile={os.path.expanduser(self.known_hosts)}"]
        if self.user:
            words += ["-l", self.user]
        return words

    def command(self, address: str, remote: list[str]) -> list[str]:
        """The call that runs ``remote`` (words as the remote shell takes them) at ``address``."""
        words = ["ssh", *self.options()]
        if self.port:
            words += ["-p", str(self.port)]
        if self.tunnel:
            words += ["-J", _jump(self.user, self.tunnel)]
        if self.forward_agent:
            words.append("-A")
        return [*words, "--", address, *remote]


def _jump(user: str, tunnel: str) -> str:
    return f"{user}@{tunnel}" if user and "@" not in tunnel else tunnel


class Tunnel:
    """A local socket that ssh leads to the endpoint as seen from another host, while this lives."""

    def __init__(self, ssh: Ssh, host: str, endpoint: Endpoint) -> None:
        self._folder = tempfile.mkdtemp(prefix="fleetctl-")
        self.path = os.path.join(self._folder, "socket")
        name, colon, port = host.rpartition(":")
        if not (colon and port.isdigit()):
            name, port = host, ""
        far = endpoint.path
        if endpoint.scheme != "unix":
            far = f"{endpoint.host}:{endpoint.port or (443 if endpoint.scheme == 'https' else 80)}"
        words = ["ssh", *ssh.options(), "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes"]
        words += ["-N", "-L", f"{self.path}:{far}", *(["-p", port] if port else []), "--", name]
        self._process = _popen(words)
        self._await(host, ssh.timeout)

    def _await(self, host: str, timeout: int) -> None:
        end = time.monotonic() + timeout + 5
        while not os.path.exists(self.path):
            status = self._process.poll()
            if status is not None or time.monotonic() > end:
                self.close()
                how = "took too long" if status is None else f"ended with status {status}"
                raise CtlError(f"cannot open a tunnel to {host}: ssh {how}")
            time.sleep(0.02)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _no_program(words: list[str]) -> CtlError:
    return CtlError(f"cannot run {words[0]}: there is no such program on this machine")


def _popen(words: list[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise _no_program(words) from None


def _call(words: list[str], keep_input: bool) -> int:
    try:
        return subprocess.call(words, stdin=None if keep_input else subprocess.DEVNULL)
    except FileNotFoundError:
        raise _no_program(words) from None


def run_on(session: Session, machine: Json, words: list[str]) -> int:
    """Run a command on a machine and return its status; its output goes where ours goes."""
    if machine["id"] == local_machine_id():
        return _call(words, keep_input=False)
    return _call(Ssh.from_options(session.options).command(_address(machine), [shlex.join(words)]), keep_input=False)


def _captured(session: Session, machine: Json, words: list[str]) -> Answer:
    """As :func:`run_on`, with the output as text."""
    if machine["id"] != local_machine_id():
        words = Ssh.from_options(session.options).command(_address(machine), [shlex.join(words)])
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise _no_program(words) from None
    return Answer(done.stdout.decode("utf-8", "replace"), done.returncode)


def _address(machine: Json) -> str:
    address = machine.get("primaryIP", "")
    if not address:
        raise CtlError(f"Machine {machine['id']} has no address that fleet knows: set public_ip in its fleet.conf")
    return str(address)


# -- where a unit is -----------------------------------------------------------


def split_place(argument: str) -> tuple[str, str]:
    """(unit name, machine) of ``unit`` or ``unit@machine``."""
    match = _AT_MACHINE.fullmatch(os.path.basename(argument))
    return (match[1], match[2]) if match else (mangle(argument), "")


def _machine_ids(session: Session, unit: Json) -> list[str]:
    """The machines that have the unit: its target, or for a global unit all that tell of it."""
    if not is_global(unit):
        return [unit["machineID"]] if unit.get("machineID") else []
    return [state["machineID"] for state in session.client.states(unit["name"]) if state.get("machineID")]


class Found(NamedTuple):
    """The unit that an argument names, and the machines that it is on or, with unit@machine, the one named."""

    unit: Json
    machines: list[Json]

    @property
    def name(self) -> str:
        return str(self.unit["name"])


def find(session: Session, argument: str) -> Json:
    """The unit of ``unit`` or ``unit@machine``, by its name or the beginning of it."""
    name, place = split_place(argument)
    unit = session.find_unit(name if place else argument)
    if unit is None:
        raise CtlError(f"Unit {name} does not exist.")
    return unit


def machines_of(session: Session, argument: str) -> Found:
    return _places(session, find(session, argument), split_place(argument)[1])


def _places(session: Session, unit: Json, place: str) -> Found:
    name, reason = unit["name"], unit.get("reason", "")
    because = f": {reason}" if reason else ""
    ids = _machine_ids(session, unit)
    if place:
        machine = session.machine(place)
        if machine["id"] not in ids:
            raise CtlError(f"Unit {name} is not on machine {machine['id']}.")
        return Found(unit, [machine])
    if not ids:
        raise CtlError(f"Unit {name} does not appear to be loaded" + (because or "."))
    known = session.machines()
    gone = [machine_id for machine_id in ids if machine_id not in known]
    if gone:
        raise CtlError(f"Machine {gone[0]}, which unit {name} is on, is not present any more{because}")
    return Found(unit, [known[machine_id] for machine_id in ids])


# -- asking machines -----------------------------------------------------------


class Errand(NamedTuple):
    """One thing to do on machines: how fleetd is asked for it, and the words that do it over ssh.

    ``timeout`` is in seconds, None for as long as it takes.
    """

    what: str
    words: list[str]
    timeout: float | None
    query: Mapping[str, str] = MappingProxyType({})


def send(session: Session, errand: Errand, unit: str, machine: Json) -> Answer | None:
    """Through fleetd; None when it has to go over ssh."""
    if session.options.on("ssh") or not session.asks:
        return None
    answer = session.client.ask(errand.what, unit, machine["id"], errand.timeout, **errand.query)
    session.asks = answer is not None
    return answer


def _do(session: Session, errand: Errand, unit: str, machine: Json) -> int:
    answer = send(session, errand, unit, machine)
    if answer is None:
        return run_on(session, machine, errand.words)
    sys.stdout.write(answer.text)
    sys.stdout.flush()
    return answer.code


def each_machine(session: Session, found: Found, errand: Errand, until_failure: bool = False) -> int:
    """Do it on every machine in turn; the last status that is not 0 is returned."""
    result = 0
    for machine in found.machines:
        if len(found.machines) > 1:
            err(f"==> {found.name} on {session.machine_legend(machine['id'])}")
        result = _do(session, errand, found.name, machine) or result
        if result and until_failure:
            break
    return result


# -- commands ------------------------------------------------------------------


def _status_errand(session: Session, name: str) -> Errand:
    words = ["systemctl", "status", "--no-pager", "-l", "--", name]
    return Errand("status", words, max(session.client.timeout, ASK_TIMEOUT))


def status(session: Session, arguments: list[str]) -> int:
    if not arguments:
        raise UsageError("No units given")
    if session.options.text("format") == "json":
        return _status_json(session, arguments)
    result = 0
    for index, argument in enumerate(arguments):
        if index:
            print(flush=True)
        found = machines_of(session, argument)
        if found.unit.get("reason"):
            err(f"Unit {found.name}: {found.unit['reason']}")
        result = each_machine(session, found, _status_errand(session, found.name)) or result
    return result


def _status_json(session: Session, arguments: list[str]) -> int:
    """One record for each unit and machine; one without a machine for a unit that is on none."""
    from .table import to_json

    records: list[Json] = []
    result = 0
    for argument in arguments:
        unit, place = find(session, argument), split_place(argument)[1]
        states = {state.get("machineID"): state for state in session.client.states(unit["name"])}
        base = {"unit": unit["name"], "dstate": unit.get("desiredState"), "reason": unit.get("reason") or None}
        if not place and not _machine_ids(session, unit):
            nothing = dict.fromkeys(("machine", "load", "active", "sub", "exit_status", "output"))
            records.append({**base, **nothing})
            result = result or 1
            continue
        for machine in _places(session, unit, place).machines:
            answer = send(session, _status_errand(session, unit["name"]), unit["name"], machine)
            if answer is None:
                answer = _captured(session, machine, _status_errand(session, unit["name"]).words)
            state = states.get(machine["id"], {})
            told = {key: state.get(f"systemd{key.capitalize()}State") for key in ("load", "active", "sub")}
            records.append(
                {**base, "machine": machine["id"], **told, "exit_status": answer.code, "output": answer.text}
            )
            result = answer.code or result
    sys.stdout.write(to_json(records))
    return result


def journal(session: Session, arguments: list[str]) -> int:
    if len(arguments) != 1:
        raise UsageError("One unit file must be provided.")
    options = session.options
    found = machines_of(session, arguments[0])
    follow = options.on("follow")
    if follow and len(found.machines) > 1:
        raise CtlError(f"Unit {found.name} is on {len(found.machines)} machines, follow one of them: {_each(found)}")
    words = ["journalctl", "--unit", found.name, "--no-pager", "-n", str(options.number("lines"))]
    words += ["-o", options.text("output")]
    if follow:
        words.append("-f")
    if options.on("sudo"):
        words.insert(0, "sudo")
    query = {"lines": str(options.number("lines")), "output": options.text("output")}
    errand = Errand("journal", words, max(session.client.timeout, ASK_TIMEOUT), query)
    if follow and not options.on("ssh"):
        return _follow(session, found, errand)
    return each_machine(session, found, errand)


def _follow(session: Session, found: Found, errand: Errand) -> int:
    """Until Ctrl-C; that the server ends it is an error."""
    machine = found.machines[0]
    pieces = session.client.follow(found.name, machine["id"], **errand.query)
    if pieces is None:
        return run_on(session, machine, errand.words)
    with contextlib.closing(pieces):
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    raise CtlError(f"the journal of {found.name} broke off: fleetd at {session.client.endpoint.url} ended it")


def _each(found: Found) -> str:
    return ", ".join(f"{found.name}@{machine['id'][:8]}" for machine in found.machines)


def _ssh_machine(session: Session, arguments: list[str]) -> tuple[Json, list[str]]:
    """The machine to go to, and the words of the command to run there."""
    by_machine, by_unit = session.options.text("machine"), session.options.text("unit")
    if by_machine and by_unit:
        raise UsageError("--machine and --unit cannot be used together")
    if by_machine:
        return session.machine(by_machine), arguments
    if by_unit:
        return _only(session, by_unit), arguments
    if not arguments:
        raise UsageError("one machine or unit must be provided")
    place, rest = arguments[0], arguments[1:]
    machine = session.find_machine(place)
    unit = session.client.unit(split_place(place)[0])
    if machine is None and unit is None:
        unit = session.find_unit(split_place(place)[0] if split_place(place)[1] else place)
    if machine is not None and unit is not None:
        raise CtlError(f"{place} is a machine and a unit, say which with --machine or --unit")
    if machine is None and unit is None:
        raise CtlError("Unable to proceed: could not find matching unit or machine")
    return machine if machine is not None else _only(session, place), rest


def _only(session: Session, argument: str) -> Json:
    found = machines_of(session, argument)
    if len(found.machines) > 1:
        raise CtlError(f"Unit {found.name} is on {len(found.machines)} machines, name one: {_each(found)}")
    return found.machines[0]


def ssh(session: Session, arguments: list[str]) -> int:
    machine, words = _ssh_machine(session, arguments)
    if machine["id"] == local_machine_id():
        shell = os.environ.get("SHELL") or "/bin/sh"
        return _call([shell, "-c", " ".join(words)] if words else [shell], keep_input=True)
    return _call(Ssh.from_options(session.options).command(_address(machine), words), keep_input=True)


def fd_forward(_session: Session, arguments: list[str]) -> int:
    """Join our input and output with a socket: what upstream's fleetctl calls here for its --tunnel."""
    import selectors
    import socket

    if len(arguments) != 1:
        raise UsageError("One socket must be provided")
    path = arguments[0].removeprefix("unix://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, selectors.DefaultSelector() as selector:
        try:
            sock.connect(path)
        except OSError as exc:
            raise CtlError(f"cannot connect to {path}: {exc.strerror}") from None
        selector.register(0, selectors.EVENT_READ)
        selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _events in selector.select():
                if key.fd == 0:
                    data = os.read(0, 65536)
                    if data:
                        sock.sendall(data)
                    else:
                        selector.unregister(0)
                        sock.shutdown(socket.SHUT_WR)
                else:
                    data = sock.recv(65536)
                    if not data:
                        return 0
                    while data:
                        data = data[os.write(1, data) :]
