# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags of the command line, in the grammar of upstream's fleetctl.

``--name value``, ``--name=value``, ``-n value``, ``-nvalue``; a boolean is ``--name`` or
``--name=false``. Flags may stand after arguments; ``--`` ends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .errors import UsageError

_TRUE = ("1", "t", "true", "yes", "on")
_FALSE = ("0", "f", "false", "no", "off")


class Flag:
    """One flag: its default tells its type. ``alias`` is another long name, ``hidden`` keeps it
    out of the help text. ``choices`` are the only values; ``completes`` is what the shell offers
    beside them: ``file``, ``machine``, ``unit``, or words with commas between them, for a list of these."""

    __slots__ = ("alias", "choices", "completes", "default", "hidden", "name", "short", "text")

    def __init__(
        self,
        name: str,
        default: str | int | float | bool,
        text: str = "",
        short: str = "",
        alias: str = "",
        choices: tuple[str, ...] = (),
        completes: str = "",
    ) -> None:
        self.name = name
        self.default = default
        self.text = text
        self.short = short
        self.alias = alias
        self.choices = choices
        self.completes = completes
        self.hidden = not text

    def read(self, text: str, where: str) -> str | int | float | bool:
        """The value in ``text``; ``where`` names its source in the error."""
        kind = type(self.default)
        if kind is bool:
            if text.lower() in _TRUE:
                return True
            if text.lower() in _FALSE:
                return False
            raise UsageError(f"{where} is {text!r}, not true or false")
        if self.choices and text not in self.choices:
            raise UsageError(f"{where} is {text!r}, not {' or '.join(self.choices)}")
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{where} is {text!r}, not {what}") from None


class Options:
    """Values of flags by name; absent ones are their defaults."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._values: dict[str, str | int | float | bool] = {f.name: f.default for f in flags}
        self.given: set[str] = set()

    def default(self, flag: Flag) -> None:
        """Make one flag more known."""
        self._values[flag.name] = flag.default

    def put(self, name: str, value: str | int | float | bool) -> None:
        self._values[name] = value
        self.given.add(name)

    def text(self, name: str) -> str:
        return str(self._values[name])

    def number(self, name: str) -> int:
        return int(self._values[name])

    def seconds(self, name: str) -> float:
        return float(self._values[name])

    def on(self, name: str) -> bool:
        return bool(self._values[name])


def from_environment(options: Options, flags: Iterable[Flag], environment: Mapping[str, str], prefix: str) -> None:
    """Values of variables like ``FLEETCTL_CA_FILE`` for the flags that are not given."""
    for flag in flags:
        variable = prefix + flag.name.upper().replace("-", "_")
        text = environment.get(variable)
        if text is not None and flag.name not in options.given:
            options.put(flag.name, flag.read(text, f"environment variable {variable}"))


class Parser:
    """Reads the flags of one command from a list of words."""

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._long: dict[str, Flag] = {}
        self._short: dict[str, Flag] = {}
        for flag in flags:
            self._long[flag.name] = flag
            if flag.alias:
                self._long[flag.alias] = flag
            if flag.short:
                self._short[flag.short] = flag

    def flag_of(self, word: str) -> Flag | None:
        """The flag whose value would be the next word after this one, or None."""
        long = word.startswith("--")
        flag = self._long.get(word[2:]) if long else self._short.get(word[-1:]) if word.startswith("-") else None
        return None if flag is None or isinstance(flag.default, bool) else flag

    def parse(self, words: list[str], options: Options, interspersed: bool = True) -> list[str]:
        """Put the values found into ``options`` and return the other words.

        Without ``interspersed`` the first other word ends the flags.
        """
        rest: list[str] = []
        waiting = list(words)
        while waiting:
            word = waiting.pop(0)
            if word == "--":
                return rest + waiting
            if word.startswith("--"):
                self._read_long(word, waiting, options)
            elif word.startswith("-") and len(word) > 1:
                self._read_short(word, waiting, options)
            else:
                rest.append(word)
                if not interspersed:
                    return rest + waiting
        return rest

    def _read_long(self, word: str, waiting: list[str], options: Options) -> None:
        name, equals, text = word[2:].partition("=")
        flag = self._long.get(name)
        if flag is None:
            raise UsageError(f"unknown flag --{name}")
        self._put(flag, f"--{name}", text if equals else None, waiting, options)

    def _read_short(self, word: str, waiting: list[str], options: Options) -> None:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._short.get(letter)
            if flag is None:
                raise UsageError(f"unknown flag -{letter} in {word}")
            text = None
            if letters.startswith("="):
                text, letters = letters[1:], ""
            elif letters and not isinstance(flag.default, bool):
                text, letters = letters, ""
            self._put(flag, f"-{letter}", text, waiting, options)

    @staticmethod
    def _put(flag: Flag, shown: str, text: str | None, waiting: list[str], options: Options) -> None:
        if text is None and isinstance(flag.default, bool):
            options.put(flag.name, True)
            return
        if text is None:
            if not waiting:
                raise UsageError(f"flag {shown} needs a value")
            text = waiting.pop(0)
        options.put(flag.name, flag.read(text, f"flag {shown}"))
