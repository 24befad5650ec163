# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``--watch``: show a list again whenever the server tells of a change that may matter to it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable

from .errors import CtlError
from .session import Session, err
from .wait import FIRST_LOOK, Events

SETTLE = 0.1  # seconds in which changes are shown together; more when reading the list takes longer
POLL = 2.0  # seconds between two looks at a server that has no event stream
LOOK = 30.0  # seconds after which to look again even if no event came
RETRY = 0.5  # seconds between two attempts to reach a server that is gone
AWAY = 30.0  # seconds a server may be gone, as when it is restarted, before that ends the watch


class _Screen:
    """Where the list is shown: in place on a terminal, as far as there is room; else below the one before."""

    def __init__(self, json: bool) -> None:
        self._terminal = sys.stdout.isatty()
        self._json = json
        self.shown: str | None = None

    def show(self, text: str) -> None:
        if text == self.shown:
            return
        first, self.shown = self.shown is None, text
        if self._terminal:
            sys.stdout.write(("\x1b[2J" if first else "") + drawn(text, shutil.get_terminal_size().lines))
        else:
            sys.stdout.write(text if self._json or first else f"\n{text}")
        sys.stdout.flush()


def drawn(text: str, height: int) -> str:
    """The text from the top of a terminal of so many lines. Nothing is cleared before it is written: no flicker."""
    lines = text.splitlines()
    room = max(height - 1, 2)  # the last line is the cursor's
    if len(lines) > room:
        lines = [*lines[: room - 1], f"({len(lines) - room + 1} more)"]
    return "\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J"


def watch(session: Session, text: Callable[[], str], kinds: tuple[str, ...]) -> int:
    """Show ``text()`` now and after events of these kinds; ends with Ctrl-C, or when the server stays away."""
    screen = _Screen(session.options.text("format") == "json")
    gone_since: float | None = None
    while True:
        # First the stream, then the list, and again a little later: what happens before the stream flows is seen too.
        events = Events(session.client)
        pause, limit = RETRY if events.open else POLL, FIRST_LOOK
        try:
            while True:
                settle = max(SETTLE, _show(session, screen, text))
                gone_since = None
                if not events.open:
                    break
                events.wait_for(kinds, limit, settle)
                limit = LOOK
        except CtlError as exc:
            if screen.shown is None:
                raise
            gone_since, pause = _still_gone(exc, gone_since), RETRY
        finally:
            events.close()
        time.sleep(pause)


def _show(session: Session, screen: _Screen, text: Callable[[], str]) -> float:
    """Read and show the list; the seconds that took."""
    started = time.monotonic()
    session.forget()
    screen.show(text())
    return time.monotonic() - started


def _still_gone(exc: CtlError, since: float | None) -> float:
    """When the server went away; raises the error when that is too long ago."""
    now = time.monotonic()
    if since is None:
        err(f"{exc} (trying again)")
        return now
    if now - since > AWAY:
        raise exc
    return since
