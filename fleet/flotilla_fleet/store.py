# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the HTTP API needs of the registry: the border between ``api.py`` and ``registry.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .model import JobState, Machine, Target, Unit, UnitState
from .question import Answer, Question
from .scheduler import Move
from .unitfile import UnitOption


class StoreError(Exception):
    """The registry could not answer; nothing is known about the outcome. The API answers 503 with this text."""


@dataclass(frozen=True)
class UnitView:
    """A unit with all that the API tells of it, read at one etcd revision."""

    unit: Unit
    target: Target
    states: tuple[UnitState, ...] = ()

    @property
    def current(self) -> JobState:
        """How far the unit got on its target machine: inactive, loaded or launched."""
        for state in self.states:
            if self.target.machine and state.machine == self.target.machine:
                return state.job
        return "inactive"


@dataclass(frozen=True)
class Event:
    """One change in the registry: ``kind`` is unit, target, state or machine; ``name`` the unit (or "")."""

    kind: str
    name: str
    machine: str
    revision: int
    deleted: bool = False


class Store(Protocol):
    """Every call raises :class:`StoreError` when etcd cannot answer in time."""

    async def unit_views(self) -> list[UnitView]:
        """All units, sorted by name. Records that cannot be read are left out and logged."""

    async def unit_view(self, name: str) -> UnitView | None: ...

    async def states(self, machine: str = "", unit: str = "") -> list[UnitState]:
        """States sorted by unit name, then machine; "" matches all."""

    async def machines(self) -> list[Machine]:
        """Present machines sorted by id, dynamic metadata merged in."""

    async def put_unit(
        self, name: str, options: Sequence[UnitOption] | None, desired: JobState, expect: Unit | None
    ) -> bool:
        """Write content and desired state in one transaction; ``options`` None keeps the content.

        ``expect`` is the unit that the caller's decision rests on (None: it does not exist). Returns False, and writes
        nothing, when the stored unit is not that one any more; the caller reads again and decides again.
        """

    async def delete_unit(self, name: str) -> str | None:
        """Remove the unit; the hash of what was removed ("": it could not be read), None when there was none."""

    async def patch_metadata(self, changes: Sequence[tuple[str, str, str]]) -> None:
        """Set dynamic metadata: (machine id, key, value) in order; "" removes."""

    async def set_drain(self, machine: str, draining: bool) -> None:
        """Ask for a machine to be emptied, or let it be used again."""

    async def rebalance_moves(self, most: int) -> tuple[Move, ...]:
        """At most ``most`` moves that would even out the machines; nothing is changed."""

    async def request_moves(self, moves: Sequence[Move]) -> None:
        """Ask the engine to bring each unit to its machine."""

    def ask(self, machine: str, question: Question) -> AsyncIterator[Answer]:
        """What a machine says of a unit, in pieces, the last with an exit status; may raise QuestionError."""

    def events(self) -> AsyncIterator[Event]:
        """Changes from now on, in order. Ends with :class:`StoreError` when the stream is lost."""
