# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What a task says of keys, checked, and the sentences about it.

Apart from the rest because keys with texts, the usual task, need none of it: what a module is sent with, Python
compiles anew on each run.
"""

from __future__ import annotations

import base64
import binascii
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_kv import (
    Condition,
    Stored,
    Wanted,
    encoded,
    text_or_base64,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError, printable

_VALUE_FIELDS = ("value", "value_base64", "value_file")
_CONDITION_FIELDS = ("if_value", "if_value_base64", "if_revision")
_ENTRY_FIELDS = ("key", "prefix", "state", *_VALUE_FIELDS, "ttl", *_CONDITION_FIELDS)


def _read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


ReadFile = t.Callable[[str], bytes]


def parse_wanted(raw: t.Any, default_state: str, read_file: ReadFile = _read_file) -> list[Wanted]:
    """The entries of option C(keys), whichever form they have.

    :param raw: a mapping of key to value, or a list of entries; for C(absent) an entry may be the key alone
    :raises OptionError: for anything that is not clear; nothing is guessed
    """
    wanted: list[Wanted] = []
    if isinstance(raw, dict):
        entries: list[t.Any] = [{"key": key, "value": value} for key, value in raw.items()]
        if default_state == "absent":
            entries = [{"key": key} for key in raw]
    elif isinstance(raw, list):
        entries = raw
    else:
        raise OptionError(
            f"keys is {_kind(raw)}; give a mapping of keys to values, or a list of entries with key and value"
        )
    for number, entry in enumerate(entries, 1):
        wanted.append(_parse_entry(entry, number, default_state, read_file))
    _check_distinct(wanted)
    return wanted


def parse_prune(prefixes: t.Sequence[str], wanted: t.Sequence[Wanted]) -> list[bytes]:
    """The prefixes of option C(prune).

    :raises OptionError: for one that is empty, or overlaps another or an entry that deletes a prefix
    """
    parsed: list[bytes] = []
    for prefix in prefixes:
        name = f"prune entry {printable(prefix)!r}"
        if not prefix:
            raise OptionError("prune has an empty entry, which would be all keys of etcd; give a prefix")
        key = encoded(name, "prefix", prefix)
        others = [*parsed, *(entry.key for entry in wanted if entry.prefix)]
        for other in others:
            if key.startswith(other) or other.startswith(key):
                shown = repr(printable(other.decode("utf-8")))
                raise OptionError(f"{name} overlaps {shown}, below which keys are removed as well; keep one of them")
        parsed.append(key)
    return parsed


def _parse_entry(entry: t.Any, number: int, default_state: str, read_file: ReadFile) -> Wanted:
    if isinstance(entry, str) and default_state == "absent":
        entry = {"key": entry}
    if not isinstance(entry, dict):
        raise OptionError(
            f"entry {number} of keys is {_kind(entry)}; give a mapping with key and value"
            " (the key alone is enough with state=absent only)"
        )
    key = _parse_key(entry, number)
    name = f"keys entry {printable(key)!r}"
    state = default_state if entry.get("state") is None else entry["state"]
    if state not in ("present", "absent"):
        raise OptionError(f"{name} has the state {printable(str(state))!r}; allowed are present and absent")
    prefix = False if entry.get("prefix") is None else entry["prefix"]
    if not isinstance(prefix, bool):
        raise OptionError(f"{name} has {_kind(prefix)} as prefix; give true or false")
    condition = _parse_condition(name, entry)
    if state == "present":
        if prefix:
            raise OptionError(f"{name} has prefix=true, which only goes with state=absent; leave it out")
        ttl = _parse_number(name, entry, "ttl", "the seconds that the key is to live, or 0 for no end")
        return Wanted(encoded(name, "key", key), _parse_value(name, entry, read_file), ttl=ttl, condition=condition)
    given = [field for field in (*_VALUE_FIELDS, "ttl") if entry.get(field) is not None]
    if given:
        raise OptionError(f"{name} has a {given[0]} though its state is absent; leave one of them out")
    if prefix and condition is not None:
        raise OptionError(f"{name} has a condition and prefix=true; a condition goes with one key only")
    return Wanted(encoded(name, "key", key), None, prefix, condition=condition)


def _parse_key(entry: dict[str, t.Any], number: int) -> str:
    unknown = sorted(str(name) for name in entry if name not in _ENTRY_FIELDS)
    if unknown:
        raise OptionError(
            f"entry {number} of keys has the unknown field {printable(unknown[0])!r}; allowed are"
            f" {', '.join(_ENTRY_FIELDS)}"
        )
    key = entry.get("key")
    if not isinstance(key, str) or not key:
        raise OptionError(f"entry {number} of keys has {_kind(key)} as its key; give a text that is not empty")
    return key


def _parse_value(name: str, entry: dict[str, t.Any], read_file: ReadFile) -> bytes:
    given = [field for field in _VALUE_FIELDS if entry.get(field) is not None]
    if len(given) != 1:
        seen = " and ".join(given) or "no value"
        raise OptionError(f"{name} has {seen}; give one of {', '.join(_VALUE_FIELDS)}, or state=absent")
    if given == ["value"]:
        return _parse_text(name, entry, "value")
    if given == ["value_base64"]:
        return _parse_base64(name, entry, "value_base64")
    path = entry["value_file"]
    if not isinstance(path, str) or not path:
        raise OptionError(f"{name} has {_kind(path)} as its value_file; give the path of a file")
    try:
        return read_file(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"{name} has the value_file {printable(path)}, which cannot be read ({reason}); give a file on the host"
            " that runs the module"
        ) from None


def _parse_text(name: str, entry: dict[str, t.Any], field: str) -> bytes:
    value = entry[field]
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        # true would become "True", and 1.10 "1.1"
        raise OptionError(
            f"{name} has {_kind(value)} as its {field}, and etcd stores text; quote it, or make it text"
            " with the filter string or to_json"
        )
    return encoded(name, field, str(value))


def _parse_base64(name: str, entry: dict[str, t.Any], field: str) -> bytes:
    try:
        return base64.b64decode(entry[field].encode("ascii"), validate=True)
    except (AttributeError, binascii.Error, UnicodeEncodeError):
        raise OptionError(f"{name} has a {field} that is not base64; encode it with b64encode") from None


def _parse_number(name: str, entry: dict[str, t.Any], field: str, what: str) -> int | None:
    value = entry.get(field)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        # a template makes text of a number
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise OptionError(f"{name} has {_kind(value)} as its {field}; give {what}")
    return value


def _parse_condition(name: str, entry: dict[str, t.Any]) -> Condition | None:
    given = [field for field in _CONDITION_FIELDS if entry.get(field) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise OptionError(f"{name} has {' and '.join(given)}; give one of them")
    if given == ["if_value"]:
        return Condition(value=_parse_text(name, entry, "if_value"))
    if given == ["if_value_base64"]:
        return Condition(value=_parse_base64(name, entry, "if_value_base64"))
    what = "the mod_revision that the key is to have, or 0 for a key that is not to exist"
    return Condition(revision=_parse_number(name, entry, "if_revision", what))


def _kind(value: t.Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    names: dict[type, str] = {str: "an empty text" if value == "" else "a text", list: "a list", dict: "a mapping"}
    return names.get(type(value), f"a {type(value).__name__}")


def _check_distinct(wanted: t.Sequence[Wanted]) -> None:
    seen: set[tuple[bytes, bool]] = set()
    prefixes = sorted({entry.key for entry in wanted if entry.prefix})
    for entry in wanted:
        name = repr(printable(entry.key.decode("utf-8")))
        if (entry.key, entry.prefix) in seen:
            raise OptionError(f"keys has {name} twice; keep one of them")
        seen.add((entry.key, entry.prefix))
        for prefix in prefixes:
            if entry.key.startswith(prefix) and not (entry.prefix and entry.key == prefix):
                other = repr(printable(prefix.decode("utf-8")))
                raise OptionError(
                    f"keys has {name} below {other}, which is to be absent with all keys below; keep one of them"
                )


def unexpected_words(entries: t.Sequence[Wanted], stored: Stored, *, show: bool, first: bool) -> str:
    """The sentence for the first key that is not what its entry expects.

    :param first: whether nothing was sent yet that writes
    """
    entry = entries[0]
    current, condition = stored.keys[entry.key], entry.condition

    def told(value: bytes) -> str:
        return repr(printable(text_or_base64(value), 60)) if show else "another value"

    seen = "does not exist"
    if current is not None:
        seen = f"has {told(current.value)} since revision {current.mod_revision}"
    if condition is not None and condition.revision is not None:
        asked = f"if_revision is {condition.revision}"
    else:
        asked = f"if_value is {told((condition and condition.value) or b'')}" if show else "if_value asks for"
    if not show and current is not None and condition is not None and condition.revision is not None:
        seen = f"exists since revision {current.mod_revision}"
    more = f" (and {len(entries) - 1} more keys)" if len(entries) > 1 else ""
    return (
        f"keys entry {printable(text_or_base64(entry.key))!r} {seen}, and its {asked}{more}:"
        f" {'nothing was written' if first else 'it is left alone'}; read the key and decide anew,"
        " or set on_mismatch=skip"
    )
