# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The entry of fleetctl: flags, commands, exit status.

0: done. 1: failed. 2: the command line makes no sense. status, journal, restart and ssh give the status of
what they run. 130: ended by Ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys

from .. import __version__
from .commands import COMMANDS, ENVIRONMENT, GLOBAL_FLAGS, NEUTRAL, find_command
from .errors import CtlError, UsageError
from .flags import Options, Parser, from_environment


def read_words(argv: list[str]) -> tuple[str, Options, list[str]]:
    """Command ("" for none), options and arguments of a command line."""
    options = Options(GLOBAL_FLAGS + NEUTRAL)
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
    name, options, arguments = read_words(argv)
    if options.on("version") or (name == "version" and not options.on("help")):
        print(f"fleetctl version {__version__}")
        return 0
    if name in ("", "help") or options.on("help"):
        from .help import command_help, general_help

        named = find_command(arguments[0]) if name in ("", "help") and arguments else name
        print(general_help() if named in ("", "help") and not arguments else command_help(named))
        return 0
    if options.text("driver") != "API":
        raise UsageError(f"--driver is {options.text('driver')!r}: only API is left, the registry is fleetd's own")
    return COMMANDS[name].run(options, arguments)


def _told(argv: list[str]) -> int:
    """Run, and tell errors in words."""
    try:
        result = _run(argv)
        sys.stdout.flush()
        return result
    except UsageError as exc:
        sys.stderr.write(f"Error: {exc}\nRun 'fleetctl --help' for usage.\n")
        return 2
    except CtlError as exc:
        sys.stdout.flush()
        sys.stderr.write(f"{exc}\n")
        return 1


def _prepare_output() -> None:
    """What the terminal's character set does not have becomes a question mark, not an error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before we were started
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")


def _give_up_output() -> None:
    """Python would complain when it flushes at the end what nobody takes."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def main(argv: list[str] | None = None) -> int:
    """Run fleetctl with these arguments and return its exit status."""
    _prepare_output()
    try:
        return _told(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:  # who read our output had enough
        _give_up_output()
        return 1
    except OSError as exc:
        _give_up_output()
        sys.stderr.write(f"fleetctl cannot go on: {exc.strerror or exc}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def entry() -> None:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    entry()
