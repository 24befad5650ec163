# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is private to the collection: nothing outside flotilla.cluster may import it.
"""Unit files: text to options and back, their hash, and what their [X-Fleet] section asks for.

The one parser of fleetd, fleetctl and the modules. It reads what go-systemd (upstream fleet's
parser) reads, with the same result, so that hashes agree: comments, blank lines and layout are
dropped, the order of options and repeated options are kept, and a continued line keeps its
backslash and newline in the value. The same file is ``flotilla_fleet/unitfile.py`` on the hosts, so
it uses the standard library only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Union, cast

from ._unit_name import expand, quote

LINE_MAX = 2048  # bytes with the newline, as upstream
SECTION = "X-Fleet"

_COMMENT = "#;"
# What Go's unicode.IsSpace takes for white space; str.strip() without an argument takes more.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class UnitOption(NamedTuple):
    """One assignment of a unit file."""

    section: str
    name: str
    value: str


class UnitFileError(ValueError):
    """A unit file that cannot be used.

    ``message`` says why, ``line`` where (1-based; 0: no one line is to blame). The text is both.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.message = message
        self.line = line


# -- text to options -----------------------------------------------------------


def _text_of(data: str | bytes) -> str:
    if isinstance(data, bytes):
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as exc:
            line = data.count(b"\n", 0, exc.start) + 1
            raise UnitFileError(f"byte {data[exc.start]:#04x} is not UTF-8 text", line) from None
    else:
        text = data
    for number, line_text in enumerate(text.split("\n"), 1):
        try:
            size = len(line_text.rstrip("\r").encode("utf-8"))
        except UnicodeEncodeError:
            raise UnitFileError("the text holds half of a surrogate pair, which is not UTF-8 text", number) from None
        if size >= LINE_MAX:
            raise UnitFileError(f"line too long (max {LINE_MAX} bytes)", number)
        if "\0" in line_text:
            raise UnitFileError("the line holds a NUL byte", number)
    return text


class _Reader:
    """A unit file read from front to end: one method for each kind of thing that can come next."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, message: str, at: int) -> UnitFileError:
        return UnitFileError(message, self.text.count("\n", 0, at) + 1)

    def line(self) -> tuple[str, bool]:
        """The rest of the line without its line end, and whether the file ended with it."""
        end = self.text.find("\n", self.at)
        last = end < 0
        rest = self.text[self.at :] if last else self.text[self.at : end]
        self.at = len(self.text) if last else end + 1
        return rest.rstrip("\r"), last

    def comment(self) -> None:
        """Skip a comment, which a backslash at the end of the line continues."""
        while True:
            line, last = self.line()
            if line.endswith(" "):
                line = line[:-1]
            if last or not line.endswith("\\"):
                return

    def section(self) -> str:
        """The section name after a ``[``."""
        start = self.at
        line, _last = self.line()
        name, bracket, garbage = line.partition("]")
        if not bracket:
            raise self.error(f"section header [{line} has no closing ]", start)
        if garbage.strip(_SPACE):
            raise self.error(f"found garbage after section name {name}: {quote(garbage.strip(_SPACE))}", start)
        return name

    def option(self, section: str) -> UnitOption:
        start = self.at
        equals = self.text.find("=", start)
        name = self.text[start : equals if equals >= 0 else len(self.text)]
        if equals < 0 or "\n" in name or "\r" in name:
            found = name.splitlines()[0] if name else ""
            raise self.error(f"{quote(found[:60])} is neither a section, a comment nor a name=value pair", start)
        self.at = equals + 1
        return UnitOption(section, name.strip(_SPACE), self.value())

    def value(self) -> str:
        value = ""
        while True:
            start = self.at
            line, last = self.line()
            if not line.strip(_SPACE):
                break
            value += line
            if not line.endswith("\\") or last:
                break
            value += "\n"
        text = value.strip(_SPACE)
        if value.endswith("\n"):
            # A continuation into a blank line keeps its newline, else the next option would be
            # joined to this one when the options are written again.
            return text + "\n"
        if text.endswith("\\") and not last:
            raise self.error("white space after the backslash at the end of the line", start)
        return text

    def options(self) -> Iterator[UnitOption]:
        section: str | None = None
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "[":
                self.at += 1
                section = self.section()
            elif char in _COMMENT:
                self.at += 1
                self.comment()
            elif section is None or char in _SPACE:
                # What stands before the first section is skipped, a byte order mark too.
                self.at += 1
            else:
                yield self.option(section)


def parse_unit(text: str | bytes) -> list[UnitOption]:
    """The options of a unit file in their order.

    Raises :class:`UnitFileError` with the line that cannot be read.
    """
    return list(_Reader(_text_of(text)).options())


# -- options to text -----------------------------------------------------------


def _by_section(options: Iterable[UnitOption]) -> dict[str, list[UnitOption]]:
    sections: dict[str, list[UnitOption]] = {}
    for option in options:
        sections.setdefault(option.section, []).append(option)
    return sections


def serialize(options: Iterable[UnitOption]) -> str:
    """The unit file text; "" for no option.

    Sections stand in the order of their first option, with a blank line between them.
    """
    return "\n".join(
        f"[{section}]\n" + "".join(f"{option.name}={option.value}\n" for option in members)
        for section, members in _by_section(options).items()
    )


def unit_hash(options: Iterable[UnitOption]) -> str:
    """SHA-1 of the unit file text as 40 hex digits: a name for the content, not a protection."""
    return hashlib.sha1(serialize(options).encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def check_options(options: Iterable[UnitOption]) -> None:
    """Raise :class:`UnitFileError` unless the options, written and read back, are what they were.

    A line that is too long, or a value whose newline would start an assignment of its own, is
    refused here; white space around a name or value is let pass, as it has no meaning.
    """
    wanted = [option for members in _by_section(options).values() for option in members]
    try:
        found = parse_unit(serialize(wanted))
    except UnitFileError as exc:
        raise UnitFileError(exc.message) from None  # a line number in a text that nobody wrote helps nobody
    for index, option in enumerate(wanted):
        same = index < len(found) and (
            found[index].section == option.section
            and found[index].name == option.name.strip(_SPACE)
            and found[index].value.strip(_SPACE) == option.value.strip(_SPACE)
        )
        if not same:
            raise UnitFileError(
                f"option {quote(option.name)} of section {quote(option.section)} cannot be written "
                f"to a unit file: its section, name or value {quote(option.value[:60])} would be "
                "read back as something else"
            )
    if len(found) != len(wanted):
        raise UnitFileError(
            f"the value of option {quote(wanted[-1].name)} holds a newline that would start another option"
        )


# -- [X-Fleet] -----------------------------------------------------------------


@dataclass(frozen=True)
class Requirements:
    """What a unit asks of the machine it is placed on, specifiers expanded.

    ``metadata`` holds (key, allowed values) in the order of first use: a machine must have one of
    the values for every key. ``conflicts`` and ``replaces`` are globs for :func:`glob_match`.
    ``unknown`` are keys of [X-Fleet] that mean nothing here; ``ignored`` are MachineMetadata values
    that are not ``key=value``. Both are worth a warning. The group of a unit are all instances of
    its template, or the unit alone.
    """

    machine_id: str = ""
    metadata: tuple[tuple[str, tuple[str, ...]], ...] = ()
    peers: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    is_global: bool = False
    memory: int = 0  # bytes that the unit reserves
    cpus: float = 0.0  # processors that the unit reserves
    spread_by: str = ""  # metadata key over whose values the group is spread
    max_per_machine: int = 0  # units of the group on one machine, 0: any number
    sticky: bool = False  # placed once and never moved
    on_partition: str = "run"  # or "stop": at most one copy, whatever it costs
    rolling: int = 0  # copies of the group that may be updated at one time, 0: all
    unknown: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


# Every spelling of a requirement. For the machine id the first spelling that is there counts; the
# others add up.
_MACHINE_ID = ("MachineID", "X-ConditionMachineID", "X-ConditionMachineBootID")
_METADATA = ("MachineMetadata", "X-ConditionMachineMetadata")
_PEERS = ("MachineOf", "X-ConditionMachineOf")
_CONFLICTS = ("Conflicts", "X-Conflicts")
_REPLACES = ("Replaces",)
_GLOBAL = ("Global",)
# Beyond upstream, whose clients let them pass.
_MEMORY = "MemoryReservation"
_CPU = "CPUReservation"
_SPREAD = "SpreadBy"
_MOST = "MaxPerMachine"
_STICKY = "Sticky"
_PARTITION = "OnPartition"
_ROLLING = "RollingUpdate"
_OURS = (_MEMORY, _CPU, _SPREAD, _MOST, _STICKY, _PARTITION, _ROLLING)
_KNOWN = frozenset(_MACHINE_ID + _METADATA + _PEERS + _CONFLICTS + _REPLACES + _GLOBAL + _OURS)
_TRUE = ("true", "yes", "1", "on", "t")
_FALSE = ("false", "no", "0", "off", "f")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)")
_SIZE_FACTOR = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_COUNT = re.compile(r"[0-9]{1,6}")
_CPUS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(%?)")


def _size(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    return int(float(match.group(1)) * _SIZE_FACTOR[match.group(2)]) if match else None


def _count(text: str) -> int | None:
    return int(text) if _COUNT.fullmatch(text) else None


def _cpus(text: str) -> float | None:
    match = _CPUS.fullmatch(text)
    return float(match.group(1)) / (100 if match.group(2) else 1) if match else None


def _choice(*choices: str) -> Callable[[str], str | None]:
    return lambda text: text.lower() if text.lower() in choices else None


# How to read each of our keys, and what to tell whoever wrote something else.
_READERS: dict[str, tuple[Callable[[str], object], str]] = {
    _MEMORY: (_size, "bytes, or a number with K, M, G or T"),
    _CPU: (_cpus, "a number of processors such as 0.5, or a percentage of one such as 50%"),
    _MOST: (_count, "a whole number"),
    _ROLLING: (_count, "a whole number"),
    _STICKY: (_choice(*_TRUE, *_FALSE), "true and false"),
    _PARTITION: (_choice("run", "stop"), "run and stop"),
}


def _last(values: dict[str, list[str]], key: str) -> str:
    return values.get(key, [""])[-1]


def _read(values: dict[str, list[str]], key: str) -> object:
    """The value of one of our keys, or None when it is not there or not usable."""
    return _READERS[key][0](_last(values, key)) if values.get(key) else None


def _split_quoted(value: str) -> list[str]:
    """The values in a value: one in double quotes is cut at the spaces outside quotes."""
    if not (len(value) > 1 and value.startswith('"') and value.endswith('"')):
        return [value]
    values, current, quoted = [], "", False
    for char in value:
        if char == '"':
            quoted = not quoted
        elif char == " " and not quoted:
            values.append(current)
            current = ""
        else:
            current += char
    return [item for item in [*values, current] if item] or [""]


def _x_fleet(options: Iterable[UnitOption], name: str = "") -> dict[str, list[str]]:
    """Values by key of [X-Fleet].

    With a name, specifiers are expanded. A value that expands to nothing stays as written, so that
    a requirement never turns into none.
    """
    values: dict[str, list[str]] = {}
    for option in options:
        if option.section == SECTION:
            found = _split_quoted(option.value)
            values.setdefault(option.name, []).extend([expand(v, name) or v for v in found] if name else found)
    return values


def _merged(values: dict[str, list[str]], keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for key in keys for value in values.get(key, ())))


def _globs(values: dict[str, list[str]], keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(glob for value in _merged(values, keys) for glob in value.split()))


def _metadata(values: dict[str, list[str]]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {}
    ignored = []
    for text in _merged(values, _METADATA):
        key, _equals, value = text.partition("=")
        if key and value and "=" not in value:
            wanted[key] = (*wanted.get(key, ()), value)
        else:
            ignored.append(text)
    return wanted, tuple(ignored)


def _requirements(values: dict[str, list[str]]) -> Requirements:
    metadata, ignored = _metadata(values)
    machine_ids = [values[key][0] for key in _MACHINE_ID if values.get(key)]
    is_global = values.get("Global", [""])[-1].lower() in _TRUE
    return Requirements(
        machine_id=machine_ids[0] if machine_ids else "",
        metadata=tuple(metadata.items()),
        peers=_merged(values, _PEERS),
        conflicts=_globs(values, _CONFLICTS),
        replaces=_merged(values, _REPLACES),
        is_global=is_global,
        memory=cast("int", _read(values, _MEMORY) or 0),
        cpus=cast("float", _read(values, _CPU) or 0.0),
        spread_by=_last(values, _SPREAD),
        max_per_machine=cast("int", _read(values, _MOST) or 0),
        sticky=_read(values, _STICKY) in _TRUE,
        on_partition=cast("str", _read(values, _PARTITION) or "run"),
        rolling=cast("int", _read(values, _ROLLING) or 0),
        unknown=tuple(key for key in values if key not in _KNOWN),
        ignored=ignored,
    )


def requirements(name: str, options: Iterable[UnitOption]) -> Requirements:
    """What the [X-Fleet] section of the unit ``name`` asks for.

    Never fails; :func:`check_requirements` tells of requirements that make no sense together.
    """
    return _requirements(_x_fleet(options, name))


def _check_ours(values: dict[str, list[str]]) -> None:
    for key, (reader, allowed) in _READERS.items():
        if values.get(key) and reader(_last(values, key)) is None:
            raise UnitFileError(f"{key} in section [{SECTION}] is {quote(_last(values, key))}, allowed are {allowed}")


def check_requirements(options: Iterable[UnitOption]) -> None:
    """Raise :class:`UnitFileError` when the [X-Fleet] section asks for what can never be.

    Specifiers are not expanded: what is checked is the text, as it is the same for all instances.
    """
    values = _x_fleet(options)
    for key in _MACHINE_ID + _PEERS:
        if "" in values.get(key, ()):
            raise UnitFileError(f"{key} in section [{SECTION}] has no value, give one or leave the line out")
    _check_ours(values)
    needs = _requirements(values)
    if needs.sticky and needs.is_global:
        raise UnitFileError("Sticky cannot be used with Global: a global unit never moves")
    for what, globs in (("conflict", needs.conflicts), ("replace", needs.replaces)):
        for peer in needs.peers:
            for glob in globs:
                if glob_match(glob, peer):
                    raise UnitFileError(f"unresolvable requirements: peer {quote(peer)} matches {what} {quote(glob)}")
    given = {
        "MachineID": bool(needs.machine_id),
        "Global": needs.is_global,
        "Peers": bool(needs.peers),
        "Conflicts": bool(needs.conflicts),
        "Replaces": bool(needs.replaces),
    }
    for one, other in _EXCLUSIVE:
        if given[one] and given[other]:
            raise UnitFileError(f"{one} cannot be used with {other}")


_EXCLUSIVE = (
    ("MachineID", "Peers"),
    ("MachineID", "Conflicts"),
    ("MachineID", "Global"),
    ("MachineID", "Replaces"),
    ("Global", "Peers"),
    ("Global", "Replaces"),
    ("Conflicts", "Replaces"),
)


# -- globs ---------------------------------------------------------------------


class _Class(NamedTuple):
    """``[a-z]`` or ``[^a-z]`` of a glob."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]

    def matches(self, char: str) -> bool:
        return self.negated != any(low <= char <= high for low, high in self.ranges)


class _Any(NamedTuple):
    """``?`` of a glob: any character but a slash."""

    def matches(self, char: str) -> bool:
        return char != "/"


class _Literal(NamedTuple):
    char: str

    def matches(self, char: str) -> bool:
        return char == self.char


_Token = Union[_Class, _Any, _Literal, None]  # None is a star


class _BadGlob(ValueError):
    pass


def _class_char(glob: str, at: int) -> tuple[str, int]:
    if at >= len(glob) or glob[at] in "-]":
        raise _BadGlob
    if glob[at] == "\\":
        at += 1
    if at + 1 >= len(glob):  # a class never ends the glob without its bracket
        raise _BadGlob
    return glob[at], at + 1


def _class(glob: str, at: int) -> tuple[_Class, int]:
    """The class whose ``[`` stands before ``at``, and where the glob goes on."""
    negated = glob.startswith("^", at)
    if negated:
        at += 1
    ranges: list[tuple[str, str]] = []
    while not (ranges and glob.startswith("]", at)):
        low, at = _class_char(glob, at)
        high = low
        if glob.startswith("-", at):
            high, at = _class_char(glob, at + 1)
        ranges.append((low, high))
    return _Class(negated, tuple(ranges)), at + 1


@lru_cache(maxsize=1024)
def _tokens(glob: str) -> tuple[_Token, ...] | None:
    """The glob in parts; None when it is malformed."""
    tokens: list[_Token] = []
    at = 0
    try:
        while at < len(glob):
            char = glob[at]
            at += 1
            if char == "*":
                if not tokens or tokens[-1] is not None:
                    tokens.append(None)
            elif char == "?":
                tokens.append(_Any())
            elif char == "[":
                found, at = _class(glob, at)
                tokens.append(found)
            elif char == "\\":
                if at >= len(glob):
                    raise _BadGlob
                tokens.append(_Literal(glob[at]))
                at += 1
            else:
                tokens.append(_Literal(char))
    except _BadGlob:
        return None
    return tuple(tokens)


def glob_match(pattern: str, name: str) -> bool:
    """Whether the shell glob matches the whole name, by the rules of Go's ``path.Match``.

    ``*`` and ``?`` do not match a slash, ``[^a-z]`` negates, a backslash quotes. A malformed glob
    matches nothing.
    """
    tokens = _tokens(pattern)
    if tokens is None:
        return False
    token = at = 0
    star = star_at = -1  # the last star seen, and how far it reaches
    while at < len(name):
        here = tokens[token] if token < len(tokens) else ...
        if here is None:
            star, star_at = token, at
            token += 1
        elif here is not ... and here.matches(name[at]):
            token += 1
            at += 1
        elif star >= 0 and name[star_at] != "/":
            star_at += 1
            token, at = star + 1, star_at
        else:
            return False
    return all(rest is None for rest in tokens[token:])
