# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting until units are what was asked for: :func:`progress` decides, :class:`Waiter` waits.

The server's event stream says when to look again. A server without one (upstream's) is asked every
quarter of a second, as upstream's fleetctl does.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .client import Client

Json = dict[str, Any]

POLL = 0.25  # seconds between two looks at a server that has no event stream
FIRST_LOOK = 0.5  # seconds after which to look again, in case a change came before the stream began
SETTLE = 0.05  # seconds in which events of many units are taken together
LOOK = 5.0  # seconds after which to look again even if no event came
ROUND = 2.0  # seconds of one of --block-attempts, as upstream
NOTICE = 10.0  # seconds of silence after which the user is told what is waited for

REASON_GRACE = 2.0  # seconds a reason for not being placed may take to go away
SOMEWHERE_GRACE = 1.0  # seconds in which a global unit comes to a machine, or is told why it does not
ENDED_GRACE = 2.0  # seconds a launched unit may be inactive before it counts as run to its end
LOOP_GRACE = 10.0  # seconds that systemd may go on restarting a unit that fails

MANY = 8  # units from which on one list costs less than single reads

_STOPPED = ("", "inactive", "failed")


SOMEWHERE = "somewhere"


class Goal(NamedTuple):
    """What one unit shall become: ``state`` inactive, loaded or launched, with the content ``hash``
    ("": any). ``SOMEWHERE`` is for a global unit: any machine tells of it, or nothing speaks against it."""

    name: str
    state: str
    hash: str = ""


class Progress(NamedTuple):
    """How far a unit is. ``kind`` is done, waiting, or an end that counts only when it lasts
    ``grace`` seconds: failed, unplaced or ended. ``reached`` says that the API shows the state asked for."""

    kind: str
    text: str = ""
    grace: float = 0.0
    reached: bool = False


def _shown(state: Json) -> str:
    return f"{state.get('systemdActiveState', '-')}/{state.get('systemdSubState', '-')}"


def _launched(goal: Goal, state: Json) -> Progress:
    """Of a unit that the agent has launched: what systemd says of it."""
    name, active = goal.name, state.get("systemdActiveState", "")
    if active == "active":
        return Progress("done", reached=True)
    if active == "failed":
        text = f"Unit {name} failed ({_shown(state)}): see fleetctl journal {name}"
        return Progress("failed", text, reached=True)
    if state.get("systemdSubState") == "auto-restart":
        text = f"Unit {name} fails again and again ({_shown(state)}): see fleetctl journal {name}"
        return Progress("failed", text, LOOP_GRACE, reached=True)
    if active == "inactive":
        text = f"Unit {name} ran to its end and is inactive now"
        return Progress("ended", text, ENDED_GRACE, reached=True)
    return Progress("waiting", f"unit {name} is {_shown(state)}", reached=True)


def progress(goal: Goal, unit: Json | None, states: list[Json]) -> Progress:
    """Compare the goal with the unit and its states on all machines, as the API shows them."""
    name = goal.name
    if goal.state == "inactive":
        return _gone(name, unit or {}, states)
    if unit is None:
        return Progress("failed", f"Unit {name} was destroyed by somebody else")
    reason = unit.get("reason", "")
    if goal.state == SOMEWHERE:
        if states:
            return Progress("done")
        if reason:
            return Progress("failed", f"Unit {name} cannot be scheduled: {reason}", SOMEWHERE_GRACE)
        return Progress("ended", grace=SOMEWHERE_GRACE)
    if not unit.get("machineID"):
        if reason:
            return Progress("unplaced", f"Unit {name} cannot be scheduled: {reason}", REASON_GRACE)
        return Progress("waiting", f"unit {name} has no machine yet")
    step = _placed(goal, unit, next((s for s in states if s.get("machineID") == unit["machineID"]), {}))
    if step.kind == "waiting" and reason:
        return step._replace(text=f"{step.text}: {reason}")
    return step


def _placed(goal: Goal, unit: Json, here: Json) -> Progress:
    """Of a unit that has a machine, with its state there."""
    name, current = goal.name, unit.get("currentState", "inactive")
    if goal.hash and here.get("hash", goal.hash) != goal.hash:
        return Progress("waiting", f"unit {name} has its old content on its machine")
    if goal.state == "loaded":
        if current == "loaded" and here.get("systemdActiveState", "") in _STOPPED:
            return Progress("done", reached=True)
        return Progress("waiting", f"unit {name} is {current} ({_shown(here)})")
    if current != "launched":
        return Progress("waiting", f"unit {name} is {current} on its machine")
    return _launched(goal, here)


def _gone(name: str, unit: Json, states: list[Json]) -> Progress:
    """Of a unit that shall run nowhere."""
    current = unit.get("currentState", "inactive")
    if current != "inactive":
        return Progress("waiting", f"unit {name} is {current}")
    running = [s for s in states if s.get("systemdActiveState", "") not in _STOPPED]
    if running:
        return Progress("waiting", f"unit {name} is still {_shown(running[0])}")
    return Progress("done", reached=True)


# -- when to look --------------------------------------------------------------


class Events:
    """Kinds and names in the server's event stream, read by a thread."""

    def __init__(self, client: Client) -> None:
        self._stream = client.events()
        self._events: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
        self.open = self._stream is not None
        self._pause = FIRST_LOOK
        self._thread = threading.Thread(target=self._read, daemon=True)
        if self._stream is not None:
            self._thread.start()

    def _read(self) -> None:
        assert self._stream is not None
        with contextlib.suppress(ValueError):  # no JSON: as good as lost
            for line in self._stream.lines():
                if line.strip():
                    event = json.loads(line)
                    self._events.put((str(event.get("kind", "")), str(event.get("name", ""))))
        self._events.put(None)

    def wait(self, names: set[str], seconds: float) -> None:
        """Until something happens to one of the units, or there may be reason to look."""
        if not self.open:
            time.sleep(min(seconds, POLL))
            return
        pause, self._pause = min(seconds, self._pause), LOOK
        self._next(lambda _kind, name: name in names, pause, SETTLE if len(names) > MANY else 0)

    def wait_for(self, kinds: tuple[str, ...], seconds: float, settle: float) -> bool:
        """Until ``settle`` seconds after an event of one of these kinds; False when there was none in ``seconds``."""
        return self._next(lambda kind, _name: kind in kinds, seconds, settle)

    def pause(self, kinds: tuple[str, ...], seconds: float) -> None:
        """Until there may be reason to look at what these events are about."""
        if not self.open:
            time.sleep(min(seconds, POLL))
            return
        pause, self._pause = min(seconds, self._pause), LOOK
        self.wait_for(kinds, pause, SETTLE)

    def _next(self, wanted: Callable[[str, str], bool], seconds: float, settle: float) -> bool:
        end = time.monotonic() + seconds
        found = False
        while (left := end - time.monotonic()) > 0 or not self._events.empty():
            try:
                event = self._events.get(timeout=max(left, 0))
            except queue.Empty:
                break
            if event is None:
                self.open = False
                break
            if wanted(*event):
                # What comes right behind it is taken in the same look.
                if not found:
                    end = min(end, time.monotonic() + settle)
                found = True
        return found

    def close(self) -> None:
        if self._stream is not None:
            self._stream.stop()
            self._thread.join(2)
            self._stream.close()


# -- waiting -------------------------------------------------------------------


def read(client: Client, names: set[str]) -> tuple[dict[str, Json], dict[str, list[Json]]]:
    """Units and states by name, for these units."""
    if len(names) > MANY:
        units = {unit["name"]: unit for unit in client.units() if unit["name"] in names}
        states = client.states()
    else:
        found = [(name, client.unit(name)) for name in sorted(names)]
        units = {name: unit for name, unit in found if unit is not None}
        states = [state for name in sorted(names) for state in client.states(name)]
    by_name: dict[str, list[Json]] = {name: [] for name in names}
    for state in states:
        if state["name"] in by_name:
            by_name[state["name"]].append(state)
    return units, by_name


class Outcome(NamedTuple):
    """How waiting for one unit ended: ``text`` is an error, or a remark when ``ok``."""

    name: str
    ok: bool
    text: str = ""


class Waiter:
    """Waits for goals and tells of each when it is reached.

    ``attempts`` is the number of rounds of two seconds, 0 for as long as it takes; with a number, a
    unit that cannot be placed is waited for until the rounds are over. ``reached`` is called with
    the unit once, when the API shows the state asked for; ``notice`` with a text now and then.
    """

    def __init__(
        self,
        client: Client,
        attempts: int,
        reached: Callable[[Json], None],
        notice: Callable[[str], None],
    ) -> None:
        self._client = client
        self._seconds = attempts * ROUND if attempts > 0 else None
        self._attempts = attempts
        self._reached = reached
        self._notice = notice
        self._told: set[str] = set()
        self._since: dict[tuple[str, str], float] = {}
        self._noticed = 0.0

    def wait(self, goals: list[Goal]) -> list[Outcome]:
        """The outcome of each goal, in the order in which they ended."""
        if not goals:
            return []
        events = Events(self._client)
        try:
            return self._loop({goal.name: goal for goal in goals}, events)
        finally:
            events.close()

    def _loop(self, pending: dict[str, Goal], events: Events) -> list[Outcome]:
        outcomes: list[Outcome] = []
        started = self._noticed = time.monotonic()
        while True:
            units, states = read(self._client, set(pending))
            now = time.monotonic()
            out_of_time = self._seconds is not None and now - started >= self._seconds
            pause, last = self._seconds or LOOK, ""
            for name, goal in sorted(pending.items()):
                step = progress(goal, units.get(name), states[name])
                if step.reached and name not in self._told:
                    self._told.add(name)
                    self._reached(units.get(name) or {"name": name})
                left = self._left(name, step, now)
                outcome = self._outcome(name, step, left, out_of_time)
                if outcome is not None:
                    outcomes.append(outcome)
                    del pending[name]
                else:
                    pause, last = min(pause, left), step.text
            if not pending:
                return outcomes
            if now - self._noticed >= NOTICE:
                self._noticed = now
                self._notice(f"still waiting: {last}")
            if self._seconds is not None:
                pause = min(pause, max(started + self._seconds - now, 0.01))
            events.wait(set(pending), pause)

    def _left(self, name: str, step: Progress, now: float) -> float:
        """Seconds until the end that ``step`` tells of counts."""
        if step.kind in ("done", "waiting"):
            if step.kind == "waiting" and not step.reached:
                self._since = {key: at for key, at in self._since.items() if key[0] != name}
            return LOOK
        if step.kind == "unplaced" and self._seconds is not None:
            return LOOK  # the user said how long
        since = self._since.setdefault((name, step.kind), now)
        return max(since + step.grace - now, 0.0)

    def _outcome(self, name: str, step: Progress, left: float, out_of_time: bool) -> Outcome | None:
        if step.kind == "done":
            return Outcome(name, True)
        if step.kind == "ended" and (left <= 0 or out_of_time):
            return Outcome(name, True, step.text)
        if step.kind in ("failed", "unplaced") and (left <= 0 or out_of_time):
            return Outcome(name, False, step.text)
        if out_of_time:
            rounds = f"{self._attempts} rounds of {ROUND:g} s"
            return Outcome(name, False, f"Gave up on unit {name} after {rounds}: {step.text}")
        return None
