# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Not broken, only slow where a test wants it: an engine that can be caught between a decision and its write.

While /run/fleet/hold is there, writes wait, and the engine's watch brings nothing, so that it cannot learn from it that
it leads no more. /run/fleet/deciding tells that a write waits; /run/fleet/written gets a line for each write that
waited: "applied" or "refused".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

HOLD = Path("/run/fleet/hold")
DECIDING = Path("/run/fleet/deciding")
WRITTEN = Path("/run/fleet/written")


def is_held() -> bool:
    return HOLD.exists()


def is_deciding() -> bool:
    return DECIDING.exists()


def mark() -> None:
    DECIDING.touch()


async def pause() -> None:
    while is_held():  # noqa: ASYNC110 - a file of another process tells no event
        await asyncio.sleep(0.05)


def note(done: asyncio.Task[bool]) -> None:
    with WRITTEN.open("a") as stream:
        stream.write("applied\n" if done.result() else "refused\n")


def apply() -> None:
    from flotilla_fleet import engine

    commit = engine.Engine._commit

    async def slow_commit(self: engine.Engine, batch: Sequence[engine.Write]) -> bool:
        if not is_held():
            return await commit(self, batch)
        mark()
        await pause()
        # What was sent is sent, even when this engine learns in the same moment that it leads no more.
        write = asyncio.create_task(commit(self, batch))
        write.add_done_callback(note)
        return await asyncio.shield(write)

    class LateWatch:
        """The client as it is, with changes that wait."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def __getattr__(self, name: str) -> Any:
            return getattr(self._client, name)

        async def watch(self, prefix: str, revision: int) -> AsyncIterator[Any]:
            async for batch in self._client.watch(prefix, revision):
                if is_deciding():
                    await pause()
                    await asyncio.sleep(1.0)
                yield batch

    begin = engine.Engine.__init__

    def slow_begin(self: engine.Engine, client: Any, *rest: Any, **named: Any) -> None:
        begin(self, LateWatch(client), *rest, **named)

    engine.Engine._commit = slow_commit
    engine.Engine.__init__ = slow_begin
