# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Brings many keys of etcd to what is wanted: reads, decides, and writes in guarded transactions.

What to do is decided by pure functions (C(wanted_of), C(unexpected), C(plan)); C(apply) does the requests.
"""

from __future__ import annotations

import base64
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
)

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


def wanted_of(keys: t.Any, state: str, prune: t.Sequence[str]) -> tuple[list[Wanted], list[bytes]]:
    """What the options C(keys) and C(prune) ask for: entries, and prefixes below which nothing else is to be.

    :raises OptionError: for anything that is not clear; nothing is guessed
    """
    plain = _plain(keys) if state == "present" and not prune else None
    if plain is not None:
        return plain, []
    # late, as keys with their texts need nothing of it
    from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_kv_entries import parse_prune, parse_wanted

    wanted = parse_wanted(keys, state)
    return wanted, parse_prune(prune, wanted)


def _plain(keys: t.Any) -> list[Wanted] | None:
    """The entries of a mapping of keys to texts or whole numbers, None for all else, wrong or not."""
    if not isinstance(keys, dict):
        return None
    # not isinstance: true is an int, too
    if not all(isinstance(key, str) and key and type(value) in (str, int) for key, value in keys.items()):
        return None
    try:
        return [Wanted(key.encode("utf-8"), str(value).encode("utf-8")) for key, value in keys.items()]
    except UnicodeEncodeError:
        return None


def encoded(name: str, what: str, text: str) -> bytes:
    """The bytes of a text that stands in a task.

    :raises OptionError: when it has none
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise OptionError(f"{name} has a {what} that is not valid Unicode; give it as value_base64") from None


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
            # only what that file has read has a condition
            from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_kv_entries import unexpected_words

            raise KvUnexpected(unexpected_words(others, stored, show=show, first=attempt == 0))
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
