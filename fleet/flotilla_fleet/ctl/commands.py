# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All commands of fleetctl with their flags: what is parsed, what help, completion and docs/fleetctl.md tell."""

from __future__ import annotations

from .errors import UsageError
from .flags import Flag, Options

ENVIRONMENT = "FLEETCTL_"  # what the names of variables with flags of all commands begin with

GLOBAL_FLAGS = (
    Flag("endpoint", "unix:///var/run/fleet.sock", "where fleetd is: unix:///PATH or https://HOST:PORT"),
    Flag("ca-file", "", "authority of the certificate of an https endpoint (default: the system's)", completes="file"),
    Flag("cert-file", "", "certificate to show to an https endpoint", completes="file"),
    Flag("key-file", "", "key of that certificate", completes="file"),
    Flag("tunnel", "", "reach the endpoint, and other machines, over ssh through this HOST[:PORT]"),
    Flag("request-timeout", 10.0, "seconds to wait for an answer"),
    Flag("ssh-username", "", "user name for ssh (default: ssh's own, which is yours)"),
    Flag("ssh-timeout", 10.0, "seconds to wait for a connection of ssh"),
    Flag("strict-host-key-checking", True, "refuse hosts whose key is not known (default: as ssh is configured)"),
    Flag("known-hosts-file", "", "file of known host keys (default: ssh's own)", completes="file"),
    Flag("debug", False, "show requests"),
    Flag("version", False, "print the version"),
    Flag("help", False, "print help", short="h"),
    # Of upstream, without effect here: its registry driver and what it called old names.
    Flag("driver", "API"),
    Flag("etcd-key-prefix", ""),
    Flag("etcd-keyfile", ""),
    Flag("etcd-certfile", ""),
    Flag("etcd-cafile", ""),
    Flag("experimental-api", True),
)

_SSH_PORT = Flag("ssh-port", 22, "port of ssh (default: as ssh is configured)")
_SSH = (Flag("ssh", False, "go over ssh, even if fleetd can ask the machine"), _SSH_PORT)
_BLOCK = (
    Flag("no-block", False, "do not wait until it is done"),
    Flag("block-attempts", 0, "wait for so many rounds of 2 s (0: until it is done, or cannot be)"),
)
_REPLACE = (
    Flag("replace", False, "replace the stored unit when the local file differs"),
    Flag("sign", False),
)
_FORMAT = Flag("format", "table", "table for people, json for programs", choices=("table", "json"))
_TABLE = (
    Flag("full", False, "do not shorten ids and hashes", short="l", alias="l"),
    Flag("no-legend", False, "no line with column names"),
    _FORMAT,
)
_OUTPUTS = "short,short-iso,short-precise,short-monotonic,cat,json,verbose,export,with-unit"
_WATCH = Flag("watch", False, "go on showing it as it changes", short="w")


class Command:
    """One command: ``target`` is the module of ``ctl`` and the function in it, loaded when run.

    ``example`` is shown by help. ``completes`` is what the shell offers for arguments, words apart by spaces:
    ``file``, ``machine``, ``command``, ``bash``, ``unit``, and kinds of units: ``launched`` (wanted so),
    ``unlaunched``, ``wanted`` (not inactive), ``placed`` (also as unit@machine).
    """

    __slots__ = ("arguments", "completes", "example", "flags", "hidden", "interspersed", "target", "text")

    def __init__(
        self,
        target: str,
        text: str,
        arguments: str = "",
        flags: tuple[Flag, ...] = (),
        interspersed: bool = True,
        example: str = "",
        completes: str = "",
    ) -> None:
        self.target = target
        self.text = text
        self.arguments = arguments
        self.flags = flags
        self.interspersed = interspersed
        self.example = example
        self.completes = completes
        self.hidden = not text

    def run(self, options: Options, arguments: list[str]) -> int:
        from importlib import import_module

        from .session import Session

        module, _colon, function = self.target.partition(":")
        session = Session(options)
        try:
            return int(getattr(import_module(f"{__package__}.{module}"), function)(session, arguments))
        finally:
            session.close()


def _fields(default: str, more: str = "") -> Flag:
    also = f"; also {more}" if more else ""
    text = f"columns, separated by commas (default: {default}{also})"
    return Flag("fields", default, text, completes=f"{default},{more}".rstrip(","))


_UNITS = "UNIT..."
COMMANDS = {
    "announce": Command(
        "announce:announce",
        "tell the cluster where a container of this machine answers, for as long as it is up; runs beside it",
        "SERVICE UNIT",
        (
            Flag("container", "", "name of the container; healthy, when it has a health check, or running"),
            Flag("port", 0, "port of the container; announced is the port of the machine that leads to it"),
            Flag("linger", 1.0, "seconds from withdrawing to the end, in which others hear of it"),
            Flag("docker", "/var/run/docker.sock", "socket of the container engine", completes="file"),
        ),
        example="fleetctl announce --container=web-1 --port=80 web web@1.service",
    ),
    "cat": Command(
        "show:cat", "print the content of a unit", "UNIT", example="fleetctl cat web@.service", completes="unit"
    ),
    "completion": Command(
        "complete:script",
        "print what makes a shell complete commands, flags, units and machines",
        "bash",
        example="source <(fleetctl completion bash)",
        completes="bash",
    ),
    "destroy": Command(
        "change:destroy",
        "remove units from the cluster",
        _UNITS,
        _BLOCK,
        example="fleetctl destroy web@1 web@2",
        completes="unit",
    ),
    "drain": Command(
        "machines:drain",
        "take all units off machines and place none there, until undrain",
        "MACHINE...",
        _BLOCK,
        example="fleetctl drain f2d1",
        completes="machine",
    ),
    "fd-forward": Command("remote:fd_forward", "", "SOCKET"),
    "follow": Command(
        "follow:follow",
        "write a file of what is announced, by a template, and again whenever that changes",
        "TEMPLATE FILE",
        (
            Flag("unit", False, "the template is in a unit file, in the values of its section X-Template"),
            Flag("check", "", "command that fails for a bad file, {} being its path: the old one stays then"),
            Flag("reload", "", "command to run when the file has changed"),
            Flag("once", False, "write it once; without etcd what is there stays, or nothing is announced"),
        ),
        example="fleetctl follow --reload=/usr/local/sbin/reload-proxy web.template web.cfg",
        completes="file",
    ),
    "help": Command(
        "",
        "print help, for one command when it is named",
        "[COMMAND]",
        example="fleetctl help start",
        completes="command",
    ),
    "journal": Command(
        "remote:journal",
        "print the journal of a unit, from the machines that have it",
        "UNIT[@MACHINE]",
        (
            Flag("lines", 10, "number of lines"),
            Flag("follow", False, "go on printing what is added", short="f"),
            Flag("output", "short", "format, as journalctl knows them", completes=_OUTPUTS),
            Flag("sudo", False, "over ssh: call journalctl with sudo"),
            *_SSH,
        ),
        example="fleetctl journal -f --lines=100 web@1",
        completes="placed",
    ),
    "list-announced": Command(
        "show:list_announced",
        "list where services answer",
        "",
        (_fields("service,unit,machine,address"), *_TABLE),
        example="fleetctl list-announced",
    ),
    "list-machines": Command(
        "show:list_machines",
        "list the machines of the cluster",
        "",
        (_fields("machine,ip,metadata", "state"), *_TABLE, _WATCH),
        example="fleetctl list-machines --fields=machine,ip,state",
    ),
    "list-unit-files": Command(
        "show:list_unit_files",
        "list the units that are stored in the cluster",
        "",
        (_fields("unit,hash,dstate,state,target", "global,desc,reason"), *_TABLE, _WATCH),
        example="fleetctl list-unit-files --fields=unit,dstate,state,target,reason",
    ),
    "list-units": Command(
        "show:list_units",
        "list the state of units on machines, and what is not placed with the reason",
        "",
        (_fields("unit,machine,active,sub", "load,hash,reason"), *_TABLE, _WATCH),
        example="fleetctl list-units --watch",
    ),
    "load": Command(
        "change:load",
        "place units on machines, without starting them",
        _UNITS,
        _REPLACE + _BLOCK,
        example="fleetctl load web@1.service",
        completes="file unit",
    ),
    "metadata": Command(
        "machines:metadata",
        "show or change metadata of a machine; an empty value removes a key",
        "MACHINE [KEY=VALUE...]",
        example="fleetctl metadata f2d1 disk=ssd rack=",
        completes="machine",
    ),
    "rebalance": Command(
        "machines:rebalance",
        "show which moves would even out the machines, or ask for them",
        "",
        (
            Flag("most", 10, "no more moves than this, 1 to 1000"),
            Flag("apply", False, "make the moves; each stops its unit and starts it on the other machine"),
            *_BLOCK,
            _fields("unit,from,to"),
            *_TABLE,
        ),
        example="fleetctl rebalance --most=3 --apply",
    ),
    "restart": Command(
        "restart:restart",
        "restart units where they are, one after the other",
        "UNIT[@MACHINE]...",
        (*_BLOCK[1:], *_SSH),
        example="fleetctl restart web@1 web@2",
        completes="launched",
    ),
    "ssh": Command(
        "remote:ssh",
        "open a shell on a machine, or run a command there",
        "[MACHINE|UNIT] [COMMAND...]",
        (
            Flag("machine", "", "the machine, by the beginning of its id, or its address", completes="machine"),
            Flag("unit", "", "the machine that has this unit", completes="placed"),
            Flag("forward-agent", False, "forward the agent of ssh", short="A"),
            _SSH_PORT,
        ),
        interspersed=False,
        example="fleetctl ssh web@1 uptime",
        completes="machine placed",
    ),
    "start": Command(
        "change:start",
        "start units, creating them when needed",
        _UNITS,
        _REPLACE + _BLOCK,
        example="fleetctl start web@1 web@2",
        completes="file unlaunched",
    ),
    "status": Command(
        "remote:status",
        "print what systemctl status says, on the machines that have the units",
        "UNIT[@MACHINE]...",
        (_FORMAT, *_SSH),
        example="fleetctl status web@1 node-exporter.service@f2d1",
        completes="placed",
    ),
    "stop": Command(
        "change:stop",
        "stop units; they stay on their machines",
        _UNITS,
        _BLOCK,
        example="fleetctl stop web@1",
        completes="launched",
    ),
    "submit": Command(
        "change:submit",
        "store units in the cluster, without placing them",
        _UNITS,
        _REPLACE,
        example="fleetctl submit ./web@.service",
        completes="file",
    ),
    "undrain": Command(
        "machines:undrain",
        "let drained machines be used again",
        "MACHINE...",
        example="fleetctl undrain f2d1",
        completes="machine",
    ),
    "unload": Command(
        "change:unload",
        "stop units and take them off their machines",
        _UNITS,
        _BLOCK,
        example="fleetctl unload web@1",
        completes="wanted",
    ),
    "verify": Command("change:verify", "", "UNIT", _SSH),
    "version": Command("", "print the version", example="fleetctl version"),
    "__complete": Command("complete:words", "", "POINT BREAKS LINE", interspersed=False),
}

# Flags that a command may look at although it does not take them.
NEUTRAL = (*_SSH, Flag("forward-agent", False), Flag("no-block", False))


def find_command(word: str) -> str:
    """The command that ``word`` names or begins."""
    if word in COMMANDS:
        return word
    found = [name for name, command in COMMANDS.items() if name.startswith(word) and not command.hidden]
    if len(found) == 1:
        return found[0]
    text = f'unknown command "{word}" for "fleetctl"'
    if found:
        text += "\n\nDid you mean this?\n" + "\n".join(f"\t{name}" for name in found) + "\n"
    raise UsageError(text)
