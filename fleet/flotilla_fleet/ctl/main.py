# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry of fleetctl: flags, commands, exit status.

0: done. 1: failed. 2: the command line makes no sense. status, journal and ssh give the status of
what they run.
"""

from __future__ import annotations

import os
import sys

from .. import __version__
from .errors import CtlError, UsageError
from .flags import Flag, Options, Parser, from_environment

ENVIRONMENT = "FLEETCTL_"

GLOBAL_FLAGS = (
    Flag("endpoint", "unix:///var/run/fleet.sock", "where fleetd is: unix:///PATH or https://HOST:PORT"),
    Flag("ca-file", "", "authority of the certificate of an https endpoint (default: the system's)"),
    Flag("cert-file", "", "certificate to show to an https endpoint"),
    Flag("key-file", "", "key of that certificate"),
    Flag("tunnel", "", "reach the endpoint, and other machines, over ssh through this HOST[:PORT]"),
    Flag("request-timeout", 10.0, "seconds to wait for an answer"),
    Flag("ssh-username", "", "user name for ssh (default: ssh's own, which is yours)"),
    Flag("ssh-timeout", 10.0, "seconds to wait for a connection of ssh"),
    Flag("strict-host-key-checking", True, "refuse hosts whose key is not known (default: as ssh is configured)"),
    Flag("known-hosts-file", "", "file of known host keys (default: ssh's own)"),
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
_BLOCK = (
    Flag("no-block", False, "do not wait until it is done"),
    Flag("block-attempts", 0, "wait for so many rounds of 2 s (0: until it is done, or cannot be)"),
)
_REPLACE = (
    Flag("replace", False, "replace the stored unit when the local file differs"),
    Flag("sign", False),
)
_TABLE = (
    Flag("full", False, "do not shorten ids and hashes", short="l", alias="l"),
    Flag("no-legend", False, "no line with column names"),
)


class Command:
    """One command: ``target`` is the module of ``ctl`` and the function in it, loaded when run."""

    __slots__ = ("arguments", "flags", "hidden", "interspersed", "target", "text")

    def __init__(
        self,
        target: str,
        text: str,
        arguments: str = "",
        flags: tuple[Flag, ...] = (),
        interspersed: bool = True,
    ) -> None:
        self.target = target
        self.text = text
        self.arguments = arguments
        self.flags = flags
        self.interspersed = interspersed
        self.hidden = not text

    def run(self, options: Options, arguments: list[str]) -> int:
        from importlib import import_module

        from .session import Session

        module, _, function = self.target.partition(":")
        session = Session(options)
        try:
            return int(getattr(import_module(f"{__package__}.{module}"), function)(session, arguments))
        finally:
            session.close()


def _fields(default: str, more: str = "") -> Flag:
    also = f"; also {more}" if more else ""
    return Flag("fields", default, f"columns, separated by commas (default: {default}{also})")


_UNITS = "UNIT..."
COMMANDS = {
    "cat": Command("show:cat", "print the content of a unit", "UNIT"),
    "destroy": Command("change:destroy", "remove units from the cluster", _UNITS, _BLOCK),
    "fd-forward": Command("remote:fd_forward", "", "SOCKET"),
    "help": Command("", "print help, for one command when it is named", "[COMMAND]"),
    "journal": Command(
        "remote:journal",
        "print the journal of a unit, on the machine that has it",
        "UNIT[@MACHINE]",
        (
            Flag("lines", 10, "number of lines"),
            Flag("follow", False, "go on printing what is added", short="f"),
            Flag("output", "short", "format, as journalctl knows them"),
            Flag("sudo", False, "call journalctl with sudo"),
            _SSH_PORT,
        ),
    ),
    "list-machines": Command(
        "show:list_machines", "list the machines of the cluster", "", (_fields("machine,ip,metadata"), *_TABLE)
    ),
    "list-unit-files": Command(
        "show:list_unit_files",
        "list the units that are stored in the cluster",
        "",
        (_fields("unit,hash,dstate,state,target", "global,desc,reason"), *_TABLE),
    ),
    "list-units": Command(
        "show:list_units",
        "list the state of units on machines",
        "",
        (_fields("unit,machine,active,sub", "load,hash"), *_TABLE),
    ),
    "load": Command("change:load", "place units on machines, without starting them", _UNITS, _REPLACE + _BLOCK),
    "restart": Command("change:restart", "stop and start units, one after the other", _UNITS, _BLOCK[1:]),
    "ssh": Command(
        "remote:ssh",
        "open a shell on a machine, or run a command there",
        "[MACHINE|UNIT] [COMMAND...]",
        (
            Flag("machine", "", "the machine, by the beginning of its id, or its address"),
            Flag("unit", "", "the machine that has this unit"),
            Flag("forward-agent", False, "forward the agent of ssh", short="A"),
            _SSH_PORT,
        ),
        interspersed=False,
    ),
    "start": Command("change:start", "start units, creating them when needed", _UNITS, _REPLACE + _BLOCK),
    "status": Command(
        "remote:status", "print what systemctl status says, on the machine that has the unit", _UNITS, (_SSH_PORT,)
    ),
    "stop": Command("change:stop", "stop units; they stay on their machines", _UNITS, _BLOCK),
    "submit": Command("change:submit", "store units in the cluster, without placing them", _UNITS, _REPLACE),
    "unload": Command("change:unload", "stop units and take them off their machines", _UNITS, _BLOCK),
    "version": Command("", "print the version"),
}

# Flags that a command may look at although it does not take them.
_NEUTRAL = (_SSH_PORT, Flag("forward-agent", False), Flag("no-block", False))


# -- help ----------------------------------------------------------------------


def _flag_lines(flags: tuple[Flag, ...]) -> list[str]:
    lines = []
    for flag in flags:
        if not flag.hidden:
            short = f"-{flag.short}, " if flag.short else "    "
            kind = "" if isinstance(flag.default, bool) else "=" + type(flag.default).__name__.upper()
            lines.append(f"  {short}{'--' + flag.name + kind:<28} {flag.text}")
    return lines


def general_help() -> str:
    lines = ["fleetctl controls the units of a fleet cluster.", "", "Usage: fleetctl [FLAGS] COMMAND [ARGUMENTS]", ""]
    lines += ["Commands:"]
    lines += [f"  {name:<16} {command.text}" for name, command in COMMANDS.items() if not command.hidden]
    lines += ["", "Flags of all commands; each is also an environment variable, as FLEETCTL_ENDPOINT:"]
    lines += _flag_lines(GLOBAL_FLAGS)
    lines += ["", "fleetctl help COMMAND tells more of one command."]
    return "\n".join(lines)


def command_help(name: str) -> str:
    command = COMMANDS[name]
    usage = " ".join(word for word in (f"Usage: fleetctl {name}", "[FLAGS]", command.arguments) if word)
    lines = [f"{command.text[:1].upper()}{command.text[1:]}.", "", usage]
    if command.flags:
        lines += ["", "Flags:", *_flag_lines(command.flags)]
    lines += ["", "fleetctl help tells of the flags of all commands."]
    return "\n".join(lines)


# -- finding the command -------------------------------------------------------


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


def _read(argv: list[str]) -> tuple[str, Options, list[str]]:
    """Command ("" for none), options and arguments of a command line."""
    options = Options(GLOBAL_FLAGS + _NEUTRAL)
    rest = Parser(GLOBAL_FLAGS).parse(argv, options, interspersed=False)
    if not rest:
        return "", options, []
    name = find_command(rest[0])
    command = COMMANDS[name]
    flags = GLOBAL_FLAGS + command.flags
    for flag in command.flags:
        options.default(flag)
    arguments = Parser(flags).parse(rest[1:], options, command.interspersed)
    from_environment(options, GLOBAL_FLAGS, os.environ, ENVIRONMENT)
    return name, options, arguments


def _run(argv: list[str]) -> int:
    name, options, arguments = _read(argv)
    if options.on("version") or (name == "version" and not options.on("help")):
        print(f"fleetctl version {__version__}")
        return 0
    if name in ("", "help") and arguments:
        print(command_help(find_command(arguments[0])))
        return 0
    if name in ("", "help"):
        print(general_help())
        return 0
    if options.on("help"):
        print(command_help(name))
        return 0
    if options.text("driver") != "API":
        raise UsageError(f"--driver is {options.text('driver')!r}: only API is left, the registry is fleetd's own")
    return COMMANDS[name].run(options, arguments)


def main(argv: list[str] | None = None) -> int:
    """Run fleetctl with these arguments and return its exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        result = _run(words)
        sys.stdout.flush()
        return result
    except UsageError as exc:
        sys.stderr.write(f"Error: {exc}\nRun 'fleetctl --help' for usage.\n")
        return 2
    except CtlError as exc:
        sys.stdout.flush()
        sys.stderr.write(f"{exc}\n")
        return 1
    except BrokenPipeError:
        # Who read our output had enough. Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
