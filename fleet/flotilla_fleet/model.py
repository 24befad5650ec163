# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The records that the parts of fleet hand to each other, and how they are written to etcd.

Every record is frozen: a part that wants another value makes another record. ``encode`` gives the JSON text that is
stored; ``decode_*`` reads it back and raises :class:`RecordError` for anything that is not such a record, so that a
broken value is told apart from a missing one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

from .unitfile import Requirements, UnitOption, requirements, unit_hash

JobState = Literal["inactive", "loaded", "launched"]

INACTIVE: JobState = "inactive"
LOADED: JobState = "loaded"
LAUNCHED: JobState = "launched"
JOB_STATES: tuple[JobState, ...] = (INACTIVE, LOADED, LAUNCHED)


class RecordError(ValueError):
    """A stored value that is not the record its key promises; the text says which key and why."""


@dataclass(frozen=True)
class Unit:
    """A unit as its owner wants it: name, parsed options, desired state."""

    name: str
    options: tuple[UnitOption, ...]
    desired: JobState = INACTIVE

    @cached_property
    def hash(self) -> str:
        """SHA-1 of the serialised unit file, 40 hex digits, as upstream's API gives it."""
        return unit_hash(self.options)

    @cached_property
    def needs(self) -> Requirements:
        """What the [X-Fleet] section asks of a machine, specifiers expanded for this name."""
        return requirements(self.name, self.options)

    @property
    def is_global(self) -> bool:
        return self.needs.is_global


@dataclass(frozen=True)
class Machine:
    """A machine that is present: its presence record with dynamic metadata merged in."""

    id: str
    ip: str = ""
    metadata: dict[str, str] = field(default_factory=dict, hash=False)
    boot_id: str = ""
    nonce: str = ""
    version: str = ""
    memory: int = 0
    """Bytes of memory that reservations may use; 0: not told."""
    cpus: float = 0.0
    """Processors that reservations may use; 0: not told."""
    trouble: str = ""
    """Why nothing new may be placed here, or ""; what is here stays."""
    draining: bool = False
    """Nothing is placed here and what is here goes away; kept apart from the presence record."""


@dataclass(frozen=True)
class Target:
    """The engine's decision for a non-global unit: a machine id, or "" with the reason why there is none.

    A reason beside a machine says what the unit waits for there. ``done`` is the hash of the content that has run to
    completion (Type=oneshot), which is not run again.
    """

    machine: str = ""
    reason: str = ""
    done: str = ""


@dataclass(frozen=True)
class Assignment:
    """What one machine shall run: a copy of the unit with the state it shall have there (loaded or launched)."""

    name: str
    options: tuple[UnitOption, ...]
    desired: JobState
    done: bool = False
    """It has run to completion already: the machine keeps the file and does not start it."""

    @cached_property
    def hash(self) -> str:
        return unit_hash(self.options)


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit on one machine; ``job`` is how far the agent got: loaded or launched."""

    name: str
    machine: str
    hash: str
    load: str
    active: str
    sub: str
    job: JobState = LOADED
    done: bool = False
    """A Type=oneshot unit that has run to completion."""
    error: str = ""
    """What keeps the machine from doing what is wanted of the unit, or ""."""


def _dump(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _load(key: str, text: bytes | str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, UnicodeDecodeError) as exc:
        raise RecordError(f"the value of etcd key {key} is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise RecordError(f"the value of etcd key {key} is a JSON {type(value).__name__}, not an object")
    return value


def _text(key: str, record: dict[str, Any], name: str) -> str:
    value = record.get(name, "")
    if not isinstance(value, str):
        raise RecordError(f"field {name} of etcd key {key} is {value!r}, not a string")
    return value


def _number(key: str, record: dict[str, Any], name: str) -> float:
    value = record.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**60:
        raise RecordError(f"field {name} of etcd key {key} is {value!r}, not a number from 0 on")
    return value


def _job(key: str, record: dict[str, Any], name: str, allowed: tuple[JobState, ...]) -> JobState:
    value = record.get(name)
    for state in allowed:
        if value == state:
            return state
    raise RecordError(f"field {name} of etcd key {key} is {value!r}, not one of {', '.join(allowed)}")


@lru_cache(4096)
def _shared(options: tuple[UnitOption, ...]) -> tuple[UnitOption, ...]:
    """The same object for equal options: a unit, its assignments and other instances of its template hold one."""
    return options


def _options(key: str, record: dict[str, Any]) -> tuple[UnitOption, ...]:
    raw = record.get("options")
    if not isinstance(raw, list):
        raise RecordError(f"field options of etcd key {key} is not a list")
    options = []
    for item in raw:
        if not (isinstance(item, list) and len(item) == 3 and all(isinstance(x, str) for x in item)):
            raise RecordError(f"an option of etcd key {key} is {item!r}, not [section, name, value]")
        options.append(UnitOption(*item))
    return _shared(tuple(options))


def encode_unit(unit: Unit) -> str:
    return _dump({"desired": unit.desired, "options": [list(o) for o in unit.options]})


def decode_unit(key: str, name: str, text: bytes | str) -> Unit:
    record = _load(key, text)
    return Unit(name, _options(key, record), _job(key, record, "desired", JOB_STATES))


def encode_assignment(assignment: Assignment, epoch: int = 0) -> str:
    """``epoch`` tells those who read the history which engine wrote; nothing depends on it."""
    record: dict[str, object] = {"desired": assignment.desired, "options": [list(o) for o in assignment.options]}
    if assignment.done:
        record["done"] = True
    return _dump(_with_epoch(record, epoch))


def decode_assignment(key: str, name: str, text: bytes | str) -> Assignment:
    record = _load(key, text)
    desired = _job(key, record, "desired", (LOADED, LAUNCHED))
    return Assignment(name, _options(key, record), desired, record.get("done") is True)


def _with_epoch(record: dict[str, object], epoch: int) -> dict[str, object]:
    return {**record, "epoch": epoch} if epoch else record


def encode_target(target: Target, epoch: int = 0) -> str:
    """``epoch`` as for :func:`encode_assignment`."""
    return _dump(_with_epoch({"done": target.done, "machine": target.machine, "reason": target.reason}, epoch))


def decode_target(key: str, text: bytes | str) -> Target:
    record = _load(key, text)
    return Target(_text(key, record, "machine"), _text(key, record, "reason"), _text(key, record, "done"))


def encode_state(state: UnitState) -> str:
    record: dict[str, object] = {
        "active": state.active,
        "hash": state.hash,
        "job": state.job,
        "load": state.load,
        "sub": state.sub,
    }
    if state.done:
        record["done"] = True
    if state.error:
        record["error"] = state.error
    return _dump(record)


def decode_state(key: str, machine: str, name: str, text: bytes | str) -> UnitState:
    record = _load(key, text)
    return UnitState(
        name,
        machine,
        hash=_text(key, record, "hash"),
        load=_text(key, record, "load"),
        active=_text(key, record, "active"),
        sub=_text(key, record, "sub"),
        job=_job(key, record, "job", JOB_STATES),
        done=record.get("done") is True,
        error=_text(key, record, "error"),
    )


def encode_machine(machine: Machine) -> str:
    record: dict[str, object] = {
        "boot_id": machine.boot_id,
        "cpus": machine.cpus,
        "id": machine.id,
        "ip": machine.ip,
        "memory": machine.memory,
        "metadata": machine.metadata,
        "nonce": machine.nonce,
        "version": machine.version,
    }
    if machine.trouble:
        record["trouble"] = machine.trouble
    return _dump(record)


def decode_machine(key: str, machine_id: str, text: bytes | str) -> Machine:
    record = _load(key, text)
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise RecordError(f"field metadata of etcd key {key} is not a map of strings")
    return Machine(
        machine_id,
        ip=_text(key, record, "ip"),
        metadata=metadata,
        boot_id=_text(key, record, "boot_id"),
        nonce=_text(key, record, "nonce"),
        version=_text(key, record, "version"),
        memory=int(_number(key, record, "memory")),
        cpus=_number(key, record, "cpus"),
        trouble=_text(key, record, "trouble"),
    )
