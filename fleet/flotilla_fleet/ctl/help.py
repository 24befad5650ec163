# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Help in the terminal, and the tables of docs/fleetctl.md."""

from __future__ import annotations

from .commands import COMMANDS, GLOBAL_FLAGS, Command
from .flags import Flag


def _value_of(flag: Flag) -> str:
    return "" if isinstance(flag.default, bool) else "=" + type(flag.default).__name__.upper()


def _flag_lines(flags: tuple[Flag, ...]) -> list[str]:
    lines = []
    for flag in flags:
        if not flag.hidden:
            short = f"-{flag.short}, " if flag.short else "    "
            lines.append(f"  {short}{'--' + flag.name + _value_of(flag):<28} {flag.text}")
    return lines


def _usage(name: str, command: Command) -> str:
    return " ".join(word for word in (f"fleetctl {name}", "[FLAGS]", command.arguments) if word)


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
    lines = [f"{command.text[:1].upper()}{command.text[1:]}.", "", f"Usage: {_usage(name, command)}"]
    if command.flags:
        lines += ["", "Flags:", *_flag_lines(command.flags)]
    if command.example:
        lines += ["", "Example:", f"  {command.example}"]
    lines += ["", "fleetctl help tells of the flags of all commands."]
    return "\n".join(lines)


def _markdown_flags(flags: tuple[Flag, ...]) -> list[str]:
    shown = [flag for flag in flags if not flag.hidden]
    if not shown:
        return []
    lines = ["", "| flag | meaning |", "|---|---|"]
    for flag in shown:
        short = f"`-{flag.short}`, " if flag.short else ""
        lines.append(f"| {short}`--{flag.name}{_value_of(flag)}` | {flag.text} |")
    return lines


def reference() -> str:
    """All commands and flags in Markdown."""
    lines = ["### Flags of all commands", *_markdown_flags(GLOBAL_FLAGS)]
    for name, command in COMMANDS.items():
        if command.hidden:
            continue
        lines += ["", f"### {name}", "", f"{command.text[:1].upper()}{command.text[1:]}.", ""]
        lines += ["```", _usage(name, command), command.example, "```", *_markdown_flags(command.flags)]
    return "\n".join(lines) + "\n"
