# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is private to the collection: nothing outside flotilla.cluster may import it.
"""What a systemd unit name may be, and the parts it is made of.

``<prefix>.<type>``, ``<prefix>@.<type>`` (a template) or ``<prefix>@<instance>.<type>`` (an
instance of it). The same file is ``flotilla_fleet/unitname.py`` on the hosts, so it uses the
standard library only.
"""

from __future__ import annotations

NAME_MAX = 256  # bytes, as systemd's UNIT_NAME_MAX

UNIT_TYPES = (
    "automount",
    "device",
    "mount",
    "path",
    "scope",
    "service",
    "slice",
    "socket",
    "swap",
    "target",
    "timer",
)
REMOVED_TYPES = ("busname", "snapshot")  # fleet 1.0 took them; systemd dropped them in 2015
TEMPLATE_TYPES = ("path", "service", "socket", "target", "timer")

_NAME_CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:_.@\\-")

_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
}


class UnitNameError(ValueError):
    """A name that systemd or fleet would not take; the text says why."""


def _escape(char: str, mark: str) -> str:
    if char == mark:
        return "\\" + mark
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote(text: str) -> str:
    """``text`` in double quotes with escapes, as error messages of the fleet API show values."""
    return '"' + "".join(_escape(char, '"') for char in text) + '"'


def _validate_type(stem: str, suffix: str) -> None:
    if suffix in REMOVED_TYPES:
        raise UnitNameError(
            f"unit type {quote(suffix)} no longer exists in systemd, use one of {', '.join(UNIT_TYPES)}"
        )
    if suffix not in UNIT_TYPES:
        raise UnitNameError(f"invalid unit type: {quote(suffix)}")
    if "@" in stem and suffix not in TEMPLATE_TYPES:
        raise UnitNameError(f"invalid unit type for template: {quote(suffix)}")


def validate_unit_name(name: str) -> None:
    """Raise :class:`UnitNameError` with the first fault when ``name`` cannot name a unit."""
    if not name:
        raise UnitNameError("unit name cannot be empty")
    if len(name.encode("utf-8", "surrogatepass")) > NAME_MAX:
        raise UnitNameError(f"unit name exceeds maximum length ({NAME_MAX})")
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        raise UnitNameError('unit name must contain "."')
    if not suffix:
        raise UnitNameError('unit name cannot end in "."')
    _validate_type(stem, suffix)
    for char in stem:
        if char not in _NAME_CHARACTERS:
            shown = _escape(char, "'")
            raise UnitNameError(f"invalid character '{shown}' in unit name")
    if name.startswith("@"):
        raise UnitNameError('unit name cannot start in "@"')


def append_suffix(name: str) -> str:
    """``name`` with ``.service`` added unless it ends in a unit type already."""
    stem, dot, suffix = name.rpartition(".")
    if stem and dot and (suffix in UNIT_TYPES or suffix in REMOVED_TYPES):
        return name
    return name + ".service"


def _parts(name: str) -> tuple[str, str | None, str]:
    """Prefix, instance (None without an ``@``) and ``.suffix`` of a name."""
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        stem, suffix = name, ""
    prefix, at, instance = stem.partition("@")
    return prefix, instance if at else None, dot + suffix


def is_template(name: str) -> bool:
    """Whether ``name`` is a template: ``web@.service``."""
    return _parts(name)[1] == ""


def is_instance(name: str) -> bool:
    """Whether ``name`` is an instance of a template: ``web@1.service``."""
    return bool(_parts(name)[1])


def template_of(name: str) -> str:
    """The template of an instance: ``web@1.service`` gives ``web@.service``; "" without ``@``."""
    prefix, instance, suffix = _parts(name)
    return "" if instance is None else f"{prefix}@{suffix}"


def prefix_of(name: str) -> str:
    """What stands before the first ``@``, or before the last dot when there is no ``@``."""
    return _parts(name)[0]


def instance_of(name: str) -> str:
    """What stands between the first ``@`` and the last dot; "" for templates and plain names."""
    return _parts(name)[1] or ""


def expand(text: str, name: str) -> str:
    """``text`` with ``%n %N %p %i`` replaced for the unit ``name``; any other ``%`` stays."""
    if "%" not in text:
        return text
    stem = name.rpartition(".")[0] or name
    for specifier, value in (
        ("%n", name),
        ("%N", stem),
        ("%p", prefix_of(name)),
        ("%i", instance_of(name)),
    ):
        text = text.replace(specifier, value)
    return text
