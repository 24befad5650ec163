# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which registry this machine follows, across restarts of fleetd.

etcd that was wiped, restored from an older snapshot or replaced, and a changed key prefix, look like a registry in
which most units are missing. A machine that knew more before must not take that for the owner's wish: it freezes, which
is to say that everything runs on and nothing is started or stopped, until an operator accepts the registry as it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from . import etcd as e
from .memory import Memory

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks for the operator's word, and between two records."""


@dataclass(frozen=True)
class Known:
    """What is remembered of the registry; 0 and "": nothing."""

    cluster_id: int = 0
    revision: int = 0
    prefix: str = ""


def known_of(record: Mapping[str, Any]) -> Known:
    """The remembered registry; one that cannot be read is none."""
    cluster, revision, prefix = record.get("cluster_id"), record.get("revision"), record.get("prefix")
    if isinstance(cluster, int) and isinstance(revision, int) and isinstance(prefix, str):
        return Known(cluster, revision, prefix)
    return Known()


def refusal(known: Known, prefix: str) -> str:
    """Why the registry below ``prefix`` may not be followed, or ""; the rest is for the client to see in answers."""
    if known.prefix in ("", prefix):
        return ""
    return f"etcd_key_prefix is {prefix} and this machine's units come from {known.prefix}; {e.FROZEN}"


class Pin:
    """Keeps an etcd client to the registry that was followed before."""

    def __init__(
        self, client: e.Etcd, memory: Memory, prefix: str, accepted: Callable[[], None] = lambda: None
    ) -> None:
        self.etcd = client
        self.memory = memory
        self.prefix = prefix
        self.accepted = accepted
        self.known = known_of(memory.read("registry"))
        client.cluster_id = self.known.cluster_id
        client.revision = self.known.revision
        client.refusal = refusal(self.known, prefix)
        if client.refusal:
            log.error("%s", client.refusal)

    async def run(self) -> None:
        """Remember how far the registry has come, and take the operator's word, for ever."""
        while True:
            if self.memory.read("accept"):
                self._accept()
            self.save()
            await asyncio.sleep(LOOK if self.known.cluster_id else 0.1)

    def save(self) -> None:
        """Write down what is known now."""
        now = Known(self.etcd.cluster_id, self.etcd.revision, self.prefix)
        if now.cluster_id and now != self.known and not self.etcd.refusal:
            self.known = now
            self.memory.keep("registry", asdict(now))

    def _accept(self) -> None:
        log.warning(
            "the registry is accepted as it is now; before, it was cluster %x at revision %d with prefix %s",
            self.known.cluster_id,
            self.known.revision,
            self.known.prefix,
        )
        self.memory.remove("accept")
        self.memory.remove("registry")
        self.known = Known()
        self.accepted()
        self.etcd.accept()


def accept(memory: Memory) -> None:
    """Leave the operator's word for the running fleetd, or the next one."""
    memory.write("accept", {"accept": True})
