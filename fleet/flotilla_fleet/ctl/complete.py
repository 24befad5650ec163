# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Completion of command lines: ``fleetctl completion bash`` and what its script calls at each Tab.

The script hands over the line as it is and puts into place what comes back, one word a line. What begins with ``:`` is
for the script itself: ``:files`` asks for the names of files, ``:nospace`` for no space after the word.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Any

from ..unitname import UNIT_TYPES
from .commands import COMMANDS, ENVIRONMENT, GLOBAL_FLAGS, find_command
from .errors import CtlError, UsageError
from .flags import Flag, Options, Parser, from_environment
from .session import Session, out

Json = dict[str, Any]

TIMEOUT = 2.0  # seconds; who presses Tab does not wait longer
OFFERED = 1000  # words; more help nobody

_BASH = """\
# Completion of fleetctl for bash: source this file, or put it where bash-completion looks.
_fleetctl() {
    local IFS=$'\\n' word
    COMPREPLY=()
    while read -r word; do
        case $word in
            :files) compopt -o default 2>/dev/null ;;
            :nospace) compopt -o nospace 2>/dev/null ;;
            *) COMPREPLY+=("$word") ;;
        esac
    done < <("${COMP_WORDS[0]}" __complete "$COMP_POINT" "$COMP_WORDBREAKS" "$COMP_LINE" 2>/dev/null)
}
complete -F _fleetctl fleetctl
"""

_PLACE = re.compile(rf"(.+\.(?:{'|'.join(UNIT_TYPES)}))@([^@/]*)")


def script(_session: Session, arguments: list[str]) -> int:
    if arguments != ["bash"]:
        raise UsageError(f"completion is for bash, not {' '.join(arguments) or 'nothing'}: fleetctl completion bash")
    print(_BASH, end="")
    return 0


def words(_session: Session, arguments: list[str]) -> int:
    """What may stand at the cursor: POINT is its place in LINE, in bytes or characters; BREAKS are bash's."""
    if len(arguments) != 3 or not arguments[0].isdecimal():
        raise UsageError("__complete is for the script that fleetctl completion prints")
    point, breaks, line = arguments
    line = line[: int(point)]
    before = line.split()
    if not before or line[-1].isspace():
        before.append("")
    current = before[-1]
    found = offer(before[1:] or [""])
    cut = replaced_from(current, breaks)
    for word in found[:OFFERED]:
        out(word if word.startswith(":") else word[cut:])
    return 0


def replaced_from(word: str, breaks: str) -> int:
    """Where the part of a word begins that bash replaces: behind the last of its breaks, or at it when that is an @.

    (Host names complete with their @; without ``shopt hostcomplete`` it is no break either.)
    """
    last = max((word.rfind(char) for char in breaks if char in "@:="), default=-1)
    return last if last >= 0 and word[last] == "@" else last + 1


# -- what to offer -------------------------------------------------------------


def offer(line: list[str]) -> list[str]:
    """What the last word of these (they follow ``fleetctl``) can become, sorted."""
    current, before = line[-1], line[:-1]
    options = Options(GLOBAL_FLAGS)
    with contextlib.suppress(UsageError):
        from_environment(options, GLOBAL_FLAGS, os.environ, ENVIRONMENT)
    name, arguments, value_of = _read(before, options)
    flags = GLOBAL_FLAGS + (COMMANDS[name].flags if name else ())
    long, equals, value = current.partition("=")
    if value_of is None and equals and current.startswith("--"):
        value_of = Parser(flags).flag_of(long)
        found = _values(options, value_of, value)
        return _sorted(word if word.startswith(":") else f"{long}={word}" for word in found)
    if value_of is not None:
        return _sorted(_values(options, value_of, current))
    if current.startswith("-"):
        return _flags(flags, current)
    if not name:
        return _starting((word for word, command in COMMANDS.items() if not command.hidden), current)
    return _sorted(_arguments(options, COMMANDS[name].completes.split(), current, arguments))


def _read(before: list[str], options: Options) -> tuple[str, list[str], Flag | None]:
    """The command ("" for none yet), its arguments so far, and the flag whose value comes next."""
    name, arguments = "", []
    flags: tuple[Flag, ...] = GLOBAL_FLAGS
    rest = list(before)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if name:
                arguments.append(word)
                continue
            with contextlib.suppress(UsageError):
                name = find_command(word)
                flags = GLOBAL_FLAGS + COMMANDS[name].flags
            continue
        flag = Parser(flags).flag_of(word)
        if flag is not None and "=" not in word and not rest:
            return name, arguments, flag
        with contextlib.suppress(UsageError):
            taken = [word, rest.pop(0)] if flag is not None and "=" not in word else [word]
            Parser(flags).parse(taken, options)
    return name, arguments, None


def _starting(found: Iterable[str], current: str) -> list[str]:
    return sorted({word for word in found if word.startswith(current)})


def _sorted(found: Iterable[str]) -> list[str]:
    return sorted(set(found), key=lambda word: (not word.startswith(":"), word))


def _flags(flags: tuple[Flag, ...], current: str) -> list[str]:
    names = [(f"--{flag.name}", isinstance(flag.default, bool)) for flag in flags if not flag.hidden]
    found = sorted((name, plain) for name, plain in names if name.startswith(current))
    if len(found) == 1 and not found[0][1]:
        return [":nospace", f"{found[0][0]}="]
    return [name for name, _plain in found]


def _values(options: Options, flag: Flag | None, current: str) -> list[str]:
    """Of a flag, "" and others."""
    if flag is None:
        return []
    if flag.choices:
        return _starting(flag.choices, current)
    if flag.completes == "file":
        return [":files"]
    if flag.name == "output":
        return _starting(flag.completes.split(","), current)
    if "," in flag.completes:  # a list: the words before the last comma stay
        done, comma, last = current.rpartition(",")
        fresh = [field for field in flag.completes.split(",") if field not in done.split(",")]
        return [":nospace", *(f"{done}{comma}{field}" for field in _starting(fresh, last))]
    return _arguments(options, flag.completes.split(), current, [])


def _arguments(options: Options, kinds: list[str], current: str, given: list[str]) -> list[str]:
    found: list[str] = []
    for kind in kinds:
        if kind == "bash":
            found += _starting(["bash"], current)
        elif kind == "command":
            found += _starting((name for name, command in COMMANDS.items() if not command.hidden), current)
        elif kind == "file":
            found += _files(current)
        else:
            # A server that is away, or that one may not ask, has nothing to offer.
            with contextlib.suppress(CtlError, UsageError):
                found += _asked(options, kind, current)
    return [word for word in found if word not in given]


def _files(current: str) -> list[str]:
    """Files of units in the folder that the word names, and folders."""
    folder, start = os.path.split(current)
    found = []
    with contextlib.suppress(OSError), os.scandir(os.path.expanduser(folder) or ".") as entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            hidden = entry.name.startswith(".") and not start.startswith(".")
            if hidden or not entry.name.startswith(start):
                continue
            if entry.name.rpartition(".")[2] in UNIT_TYPES:
                found.append(path)
            elif entry.is_dir():
                found.append(path + "/")
    return [":nospace", *found] if len(found) == 1 and found[0].endswith("/") else found


def _asked(options: Options, kind: str, current: str) -> list[str]:
    """Machines or units, from the server."""
    if options.text("tunnel"):
        return []  # takes too long
    options.put("request-timeout", min(options.seconds("request-timeout"), TIMEOUT))
    session = Session(options)
    try:
        place = _PLACE.fullmatch(current) if kind == "placed" else None
        if place is not None:
            ids = [state.get("machineID", "") for state in session.client.states(unit=place[1])]
            return [f"{place[1]}@{machine}" for machine in _starting(ids, place[2])]
        if kind == "machine":
            return _starting(session.machines(), current)
        units = session.client.units(namePrefix=current)
        return _starting((unit["name"] for unit in units if _is(kind, unit)), current)
    finally:
        session.close()


def _is(kind: str, unit: Json) -> bool:
    desired, placed = str(unit.get("desiredState", "inactive")), bool(unit.get("machineID"))
    kinds = {
        "unit": True,
        "launched": desired == "launched",
        "unlaunched": desired != "launched",
        "wanted": desired != "inactive",
        "placed": placed or (desired != "inactive" and not unit.get("reason")),
    }
    return kinds[kind]
