# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Brings many keys of etcd to what is wanted: reads, decides, and writes in guarded transactions.

What to do is decided by pure functions (C(parse_wanted), C(unexpected), C(plan)); C(apply) does the requests.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import typing as t
from types import MappingProxyType

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

_VALUE_FIELDS = ("value", "value_base64", "value_file")
_CONDITION_FIELDS = ("if_value", "if_value_base64", "if_revision")
_ENTRY_FIELDS = ("key", "prefix", "state", *_VALUE_FIELDS, "ttl", *_CONDITION_FIELDS)
# another writer that changes the same keys between our read and our write, so often in a row
_ATTEMPTS = 5
HIDDEN = "(hidden)"


class KvConflict(ClusterError):
    """Another writer kept changing the same keys."""


class KvUnexpected(ClusterError):
    """A key is not what the caller expects it to be, so nothing is written."""


class Condition(t.NamedTuple):
    """What a key has to be to be written: its value, or the revision of its last write (0: it does not exist)."""

    value: bytes | None = None
    revision: int | None = None


class Wanted(t.NamedTuple):
    """One entry of the option: a key, or with C(prefix) all keys that begin so; C(value) None: absent.

    :ivar ttl: seconds of the lease that the key is bound to; 0: to none; None: whatever it is
    """

    key: bytes
    value: bytes | None
    prefix: bool = False
    ttl: int | None = None
    condition: Condition | None = None


class Change(t.NamedTuple):
    """What happens to one key. None: it does not exist.

    :ivar ttl_before: seconds of the lease before and after, for a key for which a lease is asked for; 0: none
    """

    key: bytes
    before: bytes | None
    after: bytes | None
    ttl_before: int = 0
    ttl_after: int = 0

    @property
    def is_none(self) -> bool:
        """Whether for the caller nothing happened."""
        return (self.before, self.ttl_before) == (self.after, self.ttl_after)


class Step(t.NamedTuple):
    """One operation with the compare that holds it to what was read, and the keys it changes.

    :ivar ttl: seconds of the lease that it needs, 0 for none
    """

    compare: Compare
    operation: Operation
    size: int
    changes: tuple[Change, ...]
    ttl: int = 0


class Outcome:
    """What was done, or in check mode would be: keys to the value before and after.

    :ivar skipped: keys that were not what was expected, and were left alone
    """

    def __init__(self) -> None:
        self.changes: dict[bytes, Change] = {}
        self.revision = 0
        self.skipped: tuple[bytes, ...] = ()


class Stored(t.NamedTuple):
    """What etcd holds of the wanted entries, and below the prefixes where nothing else is to be.

    :ivar ttls: seconds of the leases that matter, 0 for one that has ended
    """

    keys: t.Mapping[bytes, KeyValue | None]
    prefixes: t.Mapping[bytes, RangeResult]
    revision: int
    ttls: t.Mapping[int, int] = MappingProxyType({})


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


def encoded(name: str, what: str, text: str) -> bytes:
    """The bytes of a text that stands in a task.

    :raises OptionError: when it has none
    """
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


def read(client: EtcdClient, wanted: t.Sequence[Wanted], prune: t.Sequence[bytes] = (), *, values: bool) -> Stored:
    """Reads what the wanted entries concern.

    :param values: whether the values below prefixes are needed, too
    """
    keys, revision = client.read_keys([entry.key for entry in wanted if not entry.prefix])
    prefixes = {}
    for prefix in [*(entry.key for entry in wanted if entry.prefix), *prune]:
        prefixes[prefix] = client.read_prefix(prefix, keys_only=not values)
        revision = max(revision, prefixes[prefix].revision)
    found = [keys[entry.key] for entry in wanted if entry.ttl is not None and not entry.prefix]
    leases = sorted({kv.lease for kv in found if kv is not None and kv.lease})
    return Stored(keys, prefixes, revision, {lease: client.lease_ttl(lease) for lease in leases})


def is_done(entry: Wanted, stored: Stored) -> bool:
    """Whether a key is as wanted already."""
    current = stored.keys[entry.key]
    if current is None or entry.value is None:
        return current is None and entry.value is None
    if current.value != entry.value:
        return False
    return entry.ttl is None or entry.ttl == (stored.ttls.get(current.lease, 0) if current.lease else 0)


def unexpected(wanted: t.Sequence[Wanted], stored: Stored) -> list[Wanted]:
    """The entries whose key is neither as wanted already nor what their condition asks for."""
    return [entry for entry in wanted if entry.condition is not None and not _holds(entry, stored)]


def _holds(entry: Wanted, stored: Stored) -> bool:
    current, condition = stored.keys[entry.key], entry.condition
    if condition is None or is_done(entry, stored):
        return True
    if condition.revision is not None:
        return condition.revision == (0 if current is None else current.mod_revision)
    return current is not None and current.value == condition.value


LeaseOf = t.Callable[[int], int]


def _no_lease(_ttl: int) -> int:
    return 0


def plan(
    wanted: t.Sequence[Wanted], stored: Stored, prune: t.Sequence[bytes] = (), lease_of: LeaseOf = _no_lease
) -> list[Step]:
    """The operations that are missing; empty when all is as wanted.

    :param prune: prefixes below which keys that no entry names are to be deleted
    :param lease_of: the id of the lease for keys that live so many seconds
    """
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
        elif not is_done(entry, stored):
            steps.append(_step(entry, stored, lease_of))
    named = {entry.key for entry in wanted}
    for prefix in prune:
        steps += [
            Step(
                unmodified(item.key, item.mod_revision),
                request_delete(item.key),
                operation_bytes(item.key, item.key),
                (Change(item.key, item.value, None),),
            )
            for item in stored.prefixes[prefix].kvs
            if item.key not in named
        ]
    return steps


def _step(entry: Wanted, stored: Stored, lease_of: LeaseOf) -> Step:
    """The operation for one key that is not as wanted."""
    current = stored.keys[entry.key]
    ttl = entry.ttl or 0
    ttl_before = stored.ttls.get(current.lease, 0) if current is not None and entry.ttl is not None else 0
    if entry.value is None:
        operation = request_delete(entry.key)
    else:
        operation = request_put(entry.key, entry.value, lease_of(ttl) if ttl else 0)
    return Step(
        unmodified(entry.key, 0 if current is None else current.mod_revision),
        operation,
        operation_bytes(entry.key, entry.key, entry.value or b""),
        (Change(entry.key, None if current is None else current.value, entry.value, ttl_before, ttl),),
        ttl,
    )


class _Leases:
    """The leases of one run, one for all keys that live equally long.

    Their ids are chosen here, so that what is to be written can be decided before there is a lease.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._ids: dict[int, int] = {}
        self._granted: set[int] = set()

    def id_of(self, ttl: int) -> int:
        return self._ids.setdefault(ttl, secrets.randbits(62) + 1)

    def grant(self, ttls: t.Iterable[int]) -> None:
        """:raises OptionError: when the cluster's leases live longer at least"""
        for ttl in sorted(set(ttls) - self._granted - {0}):
            lease = self.id_of(ttl)
            least = self._client.lease_grant(lease, ttl)
            self._granted.add(ttl)
            if least != ttl:
                self._client.lease_revoke(lease)
                raise OptionError(
                    f"keys has a ttl of {ttl} s, and leases of this cluster live {least} s at least;"
                    f" give {least} or more"
                )

    def renew(self, wanted: t.Sequence[Wanted], stored: Stored) -> bool:
        """Starts the time of keys that were as wanted before anew; False when one's lease has ended meanwhile."""
        found = [stored.keys[entry.key] for entry in wanted if entry.ttl and is_done(entry, stored)]
        leases = {kv.lease for kv in found if kv is not None} - set(self._ids.values())
        return all(self._client.lease_renew(lease) for lease in sorted(leases))


def apply(
    client: EtcdClient,
    wanted: t.Sequence[Wanted],
    *,
    check: bool,
    values: bool,
    prune: t.Sequence[bytes] = (),
    skip: bool = False,
    show: bool = False,
) -> Outcome:
    """Brings the keys to what is wanted, or only says what that would change.

    Each transaction holds only if its keys still are what was read; when another writer was faster, or when no
    answer tells whether a write was done, the keys are read again and the rest is decided anew.

    :param values: whether values of keys that go with a prefix are needed in the outcome
    :param prune: prefixes below which no other keys are to be
    :param skip: whether entries whose condition does not hold are left out, rather than all
    :param show: whether an error may tell values
    :raises KvConflict: when others change the same keys again and again
    :raises KvUnexpected: when a condition does not hold
    """
    outcome = Outcome()
    leases = _Leases(client)
    doubtful: dict[bytes, Change] = {}
    uncertain: EtcdUncertain | None = None
    for attempt in range(_ATTEMPTS):
        stored = read(client, wanted, prune, values=values)
        outcome.revision = max(outcome.revision, stored.revision)
        others = unexpected(wanted, stored)
        if others and not skip:
            raise KvUnexpected(_unexpected_words(others, stored, show=show, first=attempt == 0))
        outcome.skipped = tuple(entry.key for entry in others)
        left = set(outcome.skipped)
        steps = [step for step in plan(wanted, stored, prune, leases.id_of) if step.changes[0].key not in left]
        if not check:
            _settle(outcome, doubtful, steps)
            leases.grant(step.ttl for step in steps)
        if check:
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
        if complete and leases.renew(wanted, stored):
            return outcome
    if uncertain is not None:
        raise uncertain
    raise KvConflict(
        f"another writer changed the same keys {_ATTEMPTS} times between reading and writing;"
        " stop it, or give it other keys"
    )


def _unexpected_words(entries: t.Sequence[Wanted], stored: Stored, *, show: bool, first: bool) -> str:
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


def _settle(outcome: Outcome, doubtful: dict[bytes, Change], steps: t.Sequence[Step]) -> None:
    """After a write without an answer: what is no longer to be done was done by it."""
    open_keys = {change.key for step in steps for change in step.changes}
    _record(outcome, (change for key, change in doubtful.items() if key not in open_keys))
    doubtful.clear()


def _record(outcome: Outcome, changes: t.Iterable[Change]) -> None:
    for change in changes:
        earlier = outcome.changes.get(change.key)
        first = change if earlier is None else earlier
        outcome.changes[change.key] = change._replace(before=first.before, ttl_before=first.ttl_before)


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
        if change.is_none:
            # set back by ourselves after another writer's change: for the caller nothing happened
            continue
        name = text_or_base64(key)
        if change.before is not None:
            shown = HIDDEN if sensitive else text_or_base64(change.before)
            before[name] = shown + _living(change.ttl_before)
        if change.after is not None:
            shown = _hidden_after(change) if sensitive else text_or_base64(change.after)
            after[name] = shown + _living(change.ttl_after)
        (created if change.before is None else deleted if change.after is None else updated).append(name)
    found: dict[str, t.Any] = {
        "changed": bool(created or updated or deleted),
        "created": created,
        "updated": updated,
        "deleted": deleted,
        # "skipped" would tell Ansible that the task did nothing
        "left_alone": [text_or_base64(key) for key in sorted(outcome.skipped)],
        "revision": outcome.revision,
    }
    if diff:
        found["diff"] = {"before": before, "after": after}
    return found


def _hidden_after(change: Change) -> str:
    """Differs from what stands before, so that a diff shows which keys change."""
    return HIDDEN if change.before in (None, change.after) else f"{HIDDEN[:-1]}, another value)"


def _living(ttl: int) -> str:
    return f" (for {ttl} s)" if ttl else ""
