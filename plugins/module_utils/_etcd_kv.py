# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Brings many keys of etcd to what is wanted: reads, decides, and writes in guarded transactions.

What to do is decided by pure functions (C(parse_wanted), C(plan)); C(apply) does the requests.
"""

from __future__ import annotations

import base64
import binascii
import typing as t
from dataclasses import dataclass, field

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    Compare,
    EtcdClient,
    EtcdUncertain,
    KeyValue,
    Operation,
    RangeResult,
    cut,
    operation_bytes,
    prefix_end,
    request_delete,
    request_put,
    unmodified,
    unmodified_since,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    OptionError,
    printable,
)

_ENTRY_FIELDS = ("key", "prefix", "state", "value", "value_base64")
# another writer that changes the same keys between our read and our write, so often in a row
_ATTEMPTS = 5
HIDDEN = "(hidden)"


class KvConflict(ClusterError):
    """Another writer kept changing the same keys."""


@dataclass(frozen=True)
class Wanted:
    """One entry of the option: a key, or with C(prefix) all keys that begin so; C(value) None: absent."""

    key: bytes
    value: bytes | None
    prefix: bool = False


@dataclass(frozen=True)
class Change:
    """What happens to one key. None: it does not exist."""

    key: bytes
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Step:
    """One operation with the compare that holds it to what was read, and the keys it changes."""

    compare: Compare
    operation: Operation
    size: int
    changes: tuple[Change, ...]


@dataclass
class Outcome:
    """What was done, or in check mode would be: keys to the value before and after."""

    changes: dict[bytes, Change] = field(default_factory=dict)
    revision: int = 0


@dataclass(frozen=True)
class Stored:
    """What etcd holds of the wanted entries."""

    keys: t.Mapping[bytes, KeyValue | None]
    prefixes: t.Mapping[bytes, RangeResult]
    revision: int


def parse_wanted(raw: t.Any, default_state: str) -> list[Wanted]:
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
        wanted.append(_parse_entry(entry, number, default_state))
    _check_distinct(wanted)
    return wanted


def _parse_entry(entry: t.Any, number: int, default_state: str) -> Wanted:
    if isinstance(entry, str) and default_state == "absent":
        entry = {"key": entry}
    if not isinstance(entry, dict):
        raise OptionError(
            f"entry {number} of keys is {_kind(entry)}; give a mapping with key and value"
            " (the key alone is enough with state=absent only)"
        )
    unknown = sorted(str(name) for name in entry if name not in _ENTRY_FIELDS)
    if unknown:
        raise OptionError(
            f"entry {number} of keys has the unknown field {printable(unknown[0])!r}; allowed are"
            f" {', '.join(_ENTRY_FIELDS)}"
        )
    key = entry.get("key")
    if not isinstance(key, str) or not key:
        raise OptionError(f"entry {number} of keys has {_kind(key)} as its key; give a text that is not empty")
    name = f"keys entry {printable(key)!r}"
    state = default_state if entry.get("state") is None else entry["state"]
    if state not in ("present", "absent"):
        raise OptionError(f"{name} has the state {printable(str(state))!r}; allowed are present and absent")
    prefix = False if entry.get("prefix") is None else entry["prefix"]
    if not isinstance(prefix, bool):
        raise OptionError(f"{name} has {_kind(prefix)} as prefix; give true or false")
    if state == "absent":
        if entry.get("value") is not None or entry.get("value_base64") is not None:
            raise OptionError(f"{name} has a value though its state is absent; leave one of them out")
        return Wanted(_text(name, "key", key), None, prefix)
    if prefix:
        raise OptionError(f"{name} has prefix=true, which only goes with state=absent; leave it out")
    return Wanted(_text(name, "key", key), _parse_value(name, entry))


def _parse_value(name: str, entry: dict[str, t.Any]) -> bytes:
    value, encoded = entry.get("value"), entry.get("value_base64")
    if (value is None) == (encoded is None):
        seen = "neither value nor" if value is None else "both value and"
        raise OptionError(f"{name} has {seen} value_base64; give one of them, or state=absent")
    if encoded is not None:
        try:
            return base64.b64decode(encoded.encode("ascii"), validate=True)
        except (AttributeError, binascii.Error, UnicodeEncodeError):
            raise OptionError(f"{name} has a value_base64 that is not base64; encode it with b64encode") from None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        # true would become "True", and 1.10 "1.1"
        raise OptionError(
            f"{name} has {_kind(value)} as its value, and etcd stores text; quote it, or make it text"
            " with the filter string or to_json"
        )
    return _text(name, "value", str(value))


def _text(name: str, what: str, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError(f"{name} has a {what} that is not valid Unicode; give it as value_base64") from None


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


def read(client: EtcdClient, wanted: t.Sequence[Wanted], *, values: bool) -> Stored:
    """Reads what the wanted entries concern.

    :param values: whether the values below prefixes are needed, too
    """
    keys, revision = client.read_keys([entry.key for entry in wanted if not entry.prefix])
    prefixes = {}
    for entry in wanted:
        if entry.prefix:
            prefixes[entry.key] = client.read_prefix(entry.key, keys_only=not values)
            revision = max(revision, prefixes[entry.key].revision)
    return Stored(keys, prefixes, revision)


def plan(wanted: t.Sequence[Wanted], stored: Stored) -> list[Step]:
    """The operations that are missing; empty when all is as wanted."""
    steps: list[Step] = []
    for entry in wanted:
        if entry.prefix:
            gone = stored.prefixes[entry.key]
            if gone.kvs:
                end = prefix_end(entry.key)
                steps.append(
                    Step(
                        unmodified_since(entry.key, end, gone.revision),
                        request_delete(entry.key, end),
                        operation_bytes(entry.key, entry.key, end, end),
                        tuple(Change(item.key, item.value, None) for item in gone.kvs),
                    )
                )
            continue
        current = stored.keys[entry.key]
        before = None if current is None else current.value
        if before == entry.value:
            continue
        steps.append(
            Step(
                unmodified(entry.key, 0 if current is None else current.mod_revision),
                request_delete(entry.key) if entry.value is None else request_put(entry.key, entry.value),
                operation_bytes(entry.key, entry.key, entry.value or b""),
                (Change(entry.key, before, entry.value),),
            )
        )
    return steps


def apply(client: EtcdClient, wanted: t.Sequence[Wanted], *, check: bool, values: bool) -> Outcome:
    """Brings the keys to what is wanted, or only says what that would change.

    Each transaction holds only if its keys still are what was read; when another writer was faster, or when no
    answer tells whether a write was done, the keys are read again and the rest is decided anew.

    :param values: whether values of keys that go with a prefix are needed in the outcome
    :raises KvConflict: when others change the same keys again and again
    """
    outcome = Outcome()
    doubtful: dict[bytes, Change] = {}
    uncertain: EtcdUncertain | None = None
    for _attempt in range(_ATTEMPTS):
        stored = read(client, wanted, values=values)
        outcome.revision = max(outcome.revision, stored.revision)
        steps = plan(wanted, stored)
        if not check:
            _settle(outcome, doubtful, steps)
        if check or not steps:
            _record(outcome, (change for step in steps for change in step.changes))
            return outcome
        complete = True
        for batch in cut(steps, lambda step: step.size):
            changes = [change for step in batch for change in step.changes]
            try:
                result = client.txn([step.compare for step in batch], [step.operation for step in batch])
            except EtcdUncertain as error:
                uncertain = error
                doubtful.update((change.key, change) for change in changes)
                complete = False
                break
            if not result.succeeded:
                complete = False
                break
            outcome.revision = result.revision
            _record(outcome, changes)
        if complete:
            return outcome
    if uncertain is not None:
        raise uncertain
    raise KvConflict(
        f"another writer changed the same keys {_ATTEMPTS} times between reading and writing;"
        " stop it, or give it other keys"
    )


def _settle(outcome: Outcome, doubtful: dict[bytes, Change], steps: t.Sequence[Step]) -> None:
    """After a write without an answer: what is no longer to be done was done by it."""
    open_keys = {change.key for step in steps for change in step.changes}
    _record(outcome, (change for key, change in doubtful.items() if key not in open_keys))
    doubtful.clear()


def _record(outcome: Outcome, changes: t.Iterable[Change]) -> None:
    for change in changes:
        earlier = outcome.changes.get(change.key)
        before = change.before if earlier is None else earlier.before
        outcome.changes[change.key] = Change(change.key, before, change.after)


def text_or_base64(data: bytes) -> str:
    """Bytes for people: the text if it is text, else its base64 with a mark before it."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode("ascii")


def results(outcome: Outcome, *, sensitive: bool, diff: bool) -> dict[str, t.Any]:
    """What the module returns.

    :param sensitive: whether values must not be seen
    """
    created: list[str] = []
    updated: list[str] = []
    deleted: list[str] = []
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for key, change in sorted(outcome.changes.items()):
        if change.before == change.after:
            # set back by ourselves after another writer's change: for the caller nothing happened
            continue
        name = text_or_base64(key)
        if change.before is not None:
            before[name] = HIDDEN if sensitive else text_or_base64(change.before)
        if change.after is not None:
            after[name] = _hidden_after(change) if sensitive else text_or_base64(change.after)
        (created if change.before is None else deleted if change.after is None else updated).append(name)
    found: dict[str, t.Any] = {
        "changed": bool(created or updated or deleted),
        "created": created,
        "updated": updated,
        "deleted": deleted,
        "revision": outcome.revision,
    }
    if diff:
        found["diff"] = {"before": before, "after": after}
    return found


def _hidden_after(change: Change) -> str:
    """Differs from what stands before, so that a diff shows which keys change."""
    return HIDDEN if change.before is None else f"{HIDDEN[:-1]}, another value)"


def query(
    client: EtcdClient, *, keys: t.Sequence[str], prefixes: t.Sequence[str], keys_only: bool, limit: int
) -> dict[str, t.Any]:
    """What the info module returns: keys and all keys below prefixes, each once.

    :param limit: greatest number of keys for each prefix, 0 for all
    """
    if limit < 0:
        raise OptionError(f"limit is {limit}; give 0 for all keys, or a number greater than 0")
    for option, names in (("keys", keys), ("prefixes", prefixes)):
        if "" in names:
            raise OptionError(f"{option} has an empty entry; give a text that is not empty")
    found: dict[bytes, KeyValue] = {}
    named = [_text("keys", "key", key) for key in dict.fromkeys(keys)]
    single, revision = client.read_keys(named, keys_only=keys_only)
    for kv in single.values():
        if kv is not None:
            found[kv.key] = kv
    unread = 0
    for prefix in dict.fromkeys(prefixes):
        result = client.read_prefix(_text("prefixes", "prefix", prefix), keys_only=keys_only, limit=limit)
        revision = revision or result.revision
        unread += max(0, result.count - len(result.kvs))
        found.update((kv.key, kv) for kv in result.kvs)
    answer: dict[str, t.Any] = {
        "kvs": [_described(found[key], keys_only) for key in sorted(found)],
        "count": len(found) + unread,
        "revision": revision,
    }
    if not keys_only:
        answer["data"] = {item["key"]: item["value"] for item in answer["kvs"] if item["value"] is not None}
    return answer


def _described(kv: KeyValue, keys_only: bool) -> dict[str, t.Any]:
    item: dict[str, t.Any] = {
        "key": text_or_base64(kv.key),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": kv.lease,
    }
    if not keys_only:
        try:
            item["value"] = kv.value.decode("utf-8")
        except UnicodeDecodeError:
            item["value"] = None
            item["value_base64"] = base64.b64encode(kv.value).decode("ascii")
    return item
