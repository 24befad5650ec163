# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the local systemd match what is assigned to this machine, and tells etcd what systemd says.

Each unit has a worker of its own, so that one that hangs or fails holds up no other. What to do next is decided by the
pure :func:`next_step`; it never depends on what an error, an unreadable record or a missing answer might have meant: a
unit is stopped only because etcd was read and does not assign it any more.
"""

from __future__ import annotations

import asyncio
import enum
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from . import etcd as e
from .memory import Memory, write_atomic
from .model import (
    INACTIVE,
    LAUNCHED,
    LOADED,
    Assignment,
    JobState,
    RecordError,
    UnitState,
    decode_assignment,
    encode_state,
)
from .presence import Lease, now, trusted_until
from .registry import Keys
from .systemd import ActiveState, SystemdError
from .unitfile import UnitFileError, check_requirements, parse_unit, requirements, serialize, unit_hash
from .unitname import UnitNameError, is_template, validate_unit_name

log = logging.getLogger(__name__)

RETRY_FIRST = 1.0
RETRY_MOST = 30.0
GATHER = 0.005
"""Seconds in which unit files that come together are handed to systemd in one call."""
GATHER_PERMITS = 0.03
"""Seconds for which units that may be started wait for those that are being installed, to be permitted together."""
GATHER_STATES = 0.03
"""Seconds for which a changed state waits for others, of the same unit (activating, active) or of more of them."""
MAX_PERMITS = 64
HALT_FIRST = 5.0
"""Seconds after which a unit that somebody else has stopped on this machine is started again."""
HALT_MOST = 300.0
"""The time doubles up to this when it is stopped again and again, as by a unit that conflicts with it."""
STARTING_MOST = 0.2
"""Seconds for which changed states wait for units that are being started at the same time."""
TOLD_IN = 0.1
"""Seconds in which systemd signals a change after a start; without a signal it is asked."""
STATE_BURST = 5
"""Changes of one unit's state that are written at once."""
STATE_RATE = 0.5
"""After them, so many a second: a unit that crashes for ever must not keep etcd busy."""


class Manager(Protocol):
    """What the agent needs of systemd (:class:`flotilla_fleet.systemd.Systemd`)."""

    async def start(self, name: str) -> asyncio.Future[str]: ...
    async def stop(self, name: str) -> None: ...
    async def reload(self) -> None: ...
    async def is_loaded(self, name: str) -> bool: ...
    async def states(self, names: list[str]) -> dict[str, ActiveState]: ...
    async def link(self, paths: list[str]) -> None: ...
    async def enable(self, paths: list[str]) -> None: ...
    async def disable(self, names: list[str]) -> None: ...
    async def kill(self, name: str) -> None: ...
    async def reset_failed(self, name: str) -> None: ...


class Step(enum.Enum):
    """The next thing to do for one unit."""

    NOTHING = "nothing"
    INSTALL = "install"
    START = "start"
    STOP = "stop"
    REMOVE = "remove"


@dataclass(frozen=True)
class Local:
    """What this machine holds of a unit: the digest of the file written, its fleet hash, and how far it was taken."""

    digest: str
    hash: str
    job: JobState = LOADED
    stopped: bool = False
    """The old content was stopped so that the new one can be installed (or the file removed)."""
    fenced: bool = False
    """It must not run when this machine cannot know whether it is still meant to (OnPartition=stop)."""
    once: bool = False
    """Type=oneshot without RemainAfterExit: when it becomes inactive it has run to completion."""
    done: bool = False


class Overtaken(Exception):
    """The assignment changed while it was being acted on; the watch brings the new one."""


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def runs_once(assignment: Assignment) -> bool:
    """Whether the unit is a one-shot job, which is over when it has ended well."""
    service = {o.name: o.value.strip().lower() for o in assignment.options if o.section == "Service"}
    return service.get("Type") == "oneshot" and service.get("RemainAfterExit", "no") in ("no", "false", "0", "off")


def check_runnable(name: str) -> None:
    """Raise UnitNameError for a name that systemd would not run."""
    validate_unit_name(name)
    if is_template(name):
        raise UnitNameError(f"{name} is a template and cannot run")


def next_step(want: Assignment | None, have: Local | None) -> Step:
    """What to do next so that the machine comes to match ``want``; applied until it is NOTHING."""
    if have is None:
        return Step.NOTHING if want is None else Step.INSTALL
    if want is None or digest_of(serialize(want.options)) != have.digest:
        if not have.stopped:
            return Step.STOP
        return Step.REMOVE if want is None else Step.INSTALL
    if want.desired == LAUNCHED and have.job != LAUNCHED:
        return Step.START
    if want.desired == LOADED and have.job == LAUNCHED:
        return Step.STOP
    return Step.NOTHING


class Installer:
    """Hands unit files to systemd in batches: linking, enabling and reloading cost the same for one as for fifty."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self._links: list[tuple[str, bool, bool, asyncio.Future[None]]] = []
        self._disables: list[tuple[str, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def install(self, path: Path, enable: bool, reload: bool) -> None:
        """Make the file known; ``enable``: it has an [Install] section, ``reload``: systemd holds an older one."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._links.append((str(path), enable, reload, future))
        self._wake()
        await future

    async def disable(self, name: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._disables.append((name, future))
        self._wake()
        await future

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._links or self._disables:
            await asyncio.sleep(GATHER)
            links, self._links = self._links, []
            disables, self._disables = self._disables, []
            await self._each(self.manager.disable, list(disables), finish=True)
            await self._each(self.manager.link, [(path, future) for path, _e, _r, future in links])
            await self._each(self.manager.enable, [(path, future) for path, enable, _r, future in links if enable])
            if any(reload for _p, _e, reload, future in links if not future.done()):
                await self._reload([future for _p, _e, reload, future in links if reload])
            for *_rest, future in links:
                if not future.done():
                    future.set_result(None)

    async def _each(
        self,
        call: Callable[[list[str]], Awaitable[None]],
        items: list[tuple[str, asyncio.Future[None]]],
        finish: bool = False,
    ) -> None:
        """One call for all; if it fails, one for each, so that a bad file fails alone."""
        items = [(item, future) for item, future in items if not future.done()]
        if not items:
            return
        try:
            await call([item for item, _future in items])
        except SystemdError as exc:
            if len(items) == 1:
                items[0][1].set_exception(exc)
                return
            for item in items:
                await self._each(call, [item], finish)
            return
        if finish:
            for _item, future in items:
                future.set_result(None)

    async def _reload(self, futures: list[asyncio.Future[None]]) -> None:
        try:
            await self.manager.reload()
        except SystemdError as exc:
            for future in futures:
                if not future.done():
                    future.set_exception(exc)


class Agent:
    """The agent of one machine.

    ``run`` follows the assignments; ``on_lease`` and ``publish`` (a task of its own) keep the states in etcd;
    ``on_state`` takes systemd's signals.
    """

    def __init__(
        self,
        machine_id: str,
        client: e.Etcd,
        keys: Keys,
        manager: Manager,
        units_directory: Path,
        memory: Memory,
        grace: float,
    ) -> None:
        self.grace = grace
        self.fencing = False
        """Whether the machine may have been taken for dead, so that its fenced units must not run."""
        self._jobs: set[asyncio.Task[None]] = set()
        self._permits: list[tuple[str, asyncio.Future[None]]] = []
        self._permit_task: asyncio.Task[None] | None = None
        self._forgotten: set[str] = set()
        self._asking: asyncio.Task[None] | None = None
        self._revisions: dict[str, int] = {}
        """The revision of each assignment as it was read."""
        self._listed_at = 0
        self.machine_id = machine_id
        self.etcd = client
        self.keys = keys
        self.manager = manager
        self.units_directory = units_directory
        self.memory = memory
        self.installer = Installer(manager)
        self.desired: dict[str, Assignment] = {}
        self.known = False
        """Whether the assignments were read at least once; before that nothing is removed."""
        self.frozen: set[str] = set()
        """Units whose assignment cannot be read: they stay as they are."""
        self.draining = False
        self.local: dict[str, Local] = {}
        self.states: dict[str, ActiveState] = {}
        self.errors: dict[str, str] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._dirty: set[str] = set()
        self._publish_news = asyncio.Event()
        self._signals: dict[str, int] = {}
        self._budget: dict[str, tuple[float, float]] = {}
        self._starting = 0
        """Units that are being installed or started just now."""
        self._none_starts = asyncio.Event()
        self._halts: dict[str, tuple[float, float]] = {}
        """When each unit was last stopped by somebody else, and how many seconds later it was started again."""
        self._lease: Lease | None = None
        self._systemd_up = asyncio.Event()
        units_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._recall()

    # -- what this machine holds ------------------------------------------------

    def _record_name(self, name: str) -> str:
        # A unit name may be as long as a file name can be, so the record is named by its hash.
        return "unit-" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def _recall(self) -> None:
        """Take up the records of the process before this one, and adopt unit files that have none."""
        for record_name in self.memory.names("unit-"):
            record = self.memory.read(record_name)
            name, digest, unit_digest = record.get("name"), record.get("digest"), record.get("hash")
            if not (isinstance(name, str) and isinstance(digest, str) and isinstance(unit_digest, str)):
                continue
            try:
                check_runnable(name)
            except UnitNameError:
                continue
            job: JobState = LAUNCHED if record.get("job") == LAUNCHED else LOADED
            flags = {flag: record.get(flag) is True for flag in ("stopped", "fenced", "once", "done")}
            self.local[name] = Local(digest, unit_digest, job, **flags)
        for path in sorted(self.units_directory.iterdir()):
            if path.name not in self.local and path.is_file() and not path.name.startswith("."):
                self._adopt_or_drop(path)

    def _adopt_or_drop(self, path: Path) -> None:
        """One file that systemd cannot run would make it refuse every question about units that names it too.

        Upstream's fleetd leaves templates here, and answers nothing from then on.
        """
        try:
            check_runnable(path.name)
        except UnitNameError as exc:
            template = is_template(path.name)
            log.warning("%s is %s: %s", path, "removed" if template else "left alone", exc)
            if template:
                path.unlink(missing_ok=True)
            return
        self._adopt(path)

    def _adopt(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            self.local[path.name] = Local(digest_of(text), unit_hash(parse_unit(text)))
        except (OSError, UnitFileError) as exc:
            log.warning("%s is no unit file of ours: %s", path, exc)
            self.local[path.name] = Local("", "")

    def _set_local(self, name: str, local: Local | None) -> None:
        if local is None:
            self.local.pop(name, None)
            self.states.pop(name, None)
            self._signals.pop(name, None)
            self._halts.pop(name, None)
            self.memory.remove(self._record_name(name))
        else:
            self.local[name] = local
            self.memory.write(self._record_name(name), {"name": name, **vars(local)})
        self._touch(name)

    # -- assignments -------------------------------------------------------------

    async def run(self) -> None:
        """Follow the assignments in etcd for ever."""
        delay = 0.2
        while True:
            try:
                listing = await self.etcd.prefix(self.keys.assign(self.machine_id))
                self._take_listing(listing)
                delay = 0.2
                await self._follow(listing.revision + 1)
            except e.Compacted as exc:
                log.info("%s; reading the assignments again", exc)
            except e.EtcdError as exc:
                log.warning("cannot follow the assignments, everything stays as it is: %s", exc)
                delay = await e.rest(delay)

    async def _follow(self, revision: int) -> None:
        """Watch from a revision on; a broken stream goes on where it stopped."""
        delay, broken = 0.2, False
        while True:
            try:
                if broken:
                    await self.etcd.confirm(self.keys.leader)
                broken = True
                async for batch in self.etcd.watch(self.keys.assign(self.machine_id), revision):
                    delay = 0.2
                    for change in batch:
                        if change.revision > self._listed_at:
                            self._take(change.key, change.kv)
                        revision = max(revision, change.revision + 1)
            except (e.Compacted, e.ForeignCluster):
                raise
            except e.EtcdError as exc:
                log.info("the watch of the assignments broke (%s), going on at revision %d", exc, revision)
                delay = await e.rest(delay)

    def _take_listing(self, listing: e.RangeResult) -> None:
        listed = {self.keys.split(kv.key)[2] for kv in listing.kvs}
        for kv in listing.kvs:
            self._take(kv.key, kv)
        self.known = True
        self._listed_at = listing.revision
        for name in (set(self.desired) | self.frozen) - listed:
            self.desired.pop(name, None)
            self._revisions.pop(name, None)
            self.frozen.discard(name)
        for name in set(self.local) | set(self.desired):
            self._kick(name)

    def _take(self, key: str, kv: e.KV | None) -> None:
        name = self.keys.split(key)[2]
        self.frozen.discard(name)
        if kv is None:
            self.desired.pop(name, None)
            self._revisions.pop(name, None)
        else:
            self._revisions[name] = kv.mod
            try:
                self.desired[name] = self._checked(decode_assignment(key, name, kv.value))
            except (RecordError, UnitNameError, UnitFileError) as exc:
                log.error("assignment %s is not usable, the unit stays as it is: %s", name, exc)
                self.errors[name] = f"the assignment in etcd is not usable, the unit stays as it is: {exc}"
                self.frozen.add(name)
                self._touch(name)
                return
        self._kick(name)

    def _checked(self, assignment: Assignment) -> Assignment:
        """What etcd holds is checked again: a name is a path, and a template wedges systemd's lists."""
        check_runnable(assignment.name)
        check_requirements(assignment.options)
        return assignment

    def wanted(self, name: str) -> Assignment | None:
        """What is assigned; while the machine may be taken for dead, no more than "loaded" for a fenced unit."""
        if self.draining:
            return None
        want, have = self.desired.get(name), self.local.get(name)
        if self.fencing and want is not None and have is not None and have.fenced:
            return replace(want, desired=LOADED)
        return want

    # -- workers -----------------------------------------------------------------

    def systemd_is_up(self, up: bool) -> None:
        """Told by the owner of the D-Bus connection; without it nothing is done and nothing is concluded."""
        if not up:
            self._systemd_up.clear()
            return
        self._systemd_up.set()
        for name in set(self.local) | set(self.desired):
            self._kick(name)

    def _kick(self, name: str) -> None:
        """See to it that somebody looks at this unit."""
        event = self._news.setdefault(name, asyncio.Event())
        event.set()
        worker = self._workers.get(name)
        if worker is None or worker.done():
            self._workers[name] = asyncio.create_task(self._work(name))

    async def _work(self, name: str) -> None:
        delay = RETRY_FIRST
        news = self._news[name]
        while True:
            news.clear()
            await self._systemd_up.wait()
            try:
                await self._converge(name)
            except Overtaken:
                if not news.is_set():
                    break
                continue
            except (SystemdError, OSError, e.EtcdError) as exc:
                self._complain(name, exc)
            else:
                if name not in self.frozen:
                    self._content(name)
                if not news.is_set():
                    break
                continue
            try:
                async with asyncio.timeout(delay):
                    await news.wait()
                delay = RETRY_FIRST
            except TimeoutError:
                delay = min(delay * 2, RETRY_MOST)
        self._workers.pop(name, None)
        if name not in self.local and name not in self.desired:
            self._news.pop(name, None)

    def _complain(self, name: str, exc: Exception) -> None:
        text = str(exc)
        if self.errors.get(name) != text:
            log.warning("unit %s: %s; trying again", name, text)
            self.errors[name] = text
            self._touch(name)

    def _content(self, name: str) -> None:
        """There is nothing to complain of any more."""
        if self.errors.pop(name, None) is not None:
            self._touch(name)

    async def _converge(self, name: str) -> None:
        while name not in self.frozen:
            want, have = self.wanted(name), self.local.get(name)
            if want is None and not self.known and not self.draining:
                return
            step = next_step(want, have)
            if step is Step.NOTHING:
                return
            if step is Step.INSTALL and have is None and self._lease is None:
                # Not registered, perhaps because another machine has this id: on_lease comes back to it.
                return
            log.info("unit %s: %s", name, step.value)
            if step in (Step.INSTALL, Step.START) and want is not None:
                self._starting += 1
                self._none_starts.clear()
                try:
                    await (self._start(want, have) if have and step is Step.START else self._install(want, have))
                finally:
                    self._starting -= 1
                    if not self._starting:
                        self._none_starts.set()
            elif step is Step.STOP and have is not None:
                await self._stop(name, have, want)
            elif step is Step.REMOVE:
                await self._remove(name)

    async def _install(self, want: Assignment, have: Local | None) -> None:
        name, text = want.name, serialize(want.options)
        path = self.units_directory / name
        stale = have is not None or await self.manager.is_loaded(name)
        write_atomic(path, text)
        enable = any(option.section == "Install" for option in want.options)
        await self.installer.install(path, enable, reload=stale)
        fenced = requirements(name, want.options).on_partition == "stop"
        self._set_local(name, Local(digest_of(text), want.hash, fenced=fenced, once=runs_once(want)))
        if want.desired == LOADED:
            await self._look(name)

    async def _start(self, want: Assignment, have: Local) -> None:
        name = want.name
        started = replace(have, job=LAUNCHED, stopped=False, done=want.done)
        if want.done:
            self._set_local(name, started)
            return
        await self._permit(name)
        told = self._signals.get(name, 0)
        try:
            job = await self.manager.start(name)
        except SystemdError:
            await self._look(name)  # what systemd made of the file is worth telling
            raise
        asyncio.get_running_loop().call_later(TOLD_IN, self._look_unless_told, name, told)
        self._set_local(name, started)
        if have.once:
            waiter = asyncio.create_task(self._await_completion(name, started, job))
            self._jobs.add(waiter)
            waiter.add_done_callback(self._jobs.discard)

    async def _await_completion(self, name: str, started: Local, job: asyncio.Future[str]) -> None:
        """The start job of a one-shot unit ends with its process."""
        try:
            result = await asyncio.shield(job)
        except SystemdError:
            return
        if result == "done" and self.local.get(name) == started:
            self._set_local(name, replace(started, done=True))

    async def _permit(self, name: str) -> None:
        """Say in etcd that this machine runs the unit, before it does.

        The engine gives a unit to another machine only when no machine says so. The write compares the assignment, so
        it fails (:class:`Overtaken`) when the unit was taken away meanwhile; without etcd nothing is started.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._permits.append((name, future))
        if self._permit_task is None or self._permit_task.done():
            self._permit_task = asyncio.create_task(self._get_permits())
        await future

    async def _get_permits(self) -> None:
        while self._permits:
            await asyncio.sleep(GATHER)
            if self._starting > len(self._permits):
                await asyncio.sleep(GATHER_PERMITS)
            batch, self._permits = self._permits[:MAX_PERMITS], self._permits[MAX_PERMITS:]
            if not await self._ask_permits(batch):
                for item in batch:
                    await self._ask_permits([item])

    async def _ask_permits(self, batch: list[tuple[str, asyncio.Future[None]]]) -> bool:
        """One transaction; False when one of several was refused and nothing is settled."""
        lease = self._lease
        failure: Exception | None = None
        compares = [e.if_mod(self.keys.assign(self.machine_id, n), self._revisions.get(n, 0)) for n, _future in batch]
        try:
            if lease is None or lease.left <= 0:
                raise e.Unreachable("the machine is not registered in etcd")
            result = await self.etcd.txn(compares, [self._state_op(name, lease) for name, _future in batch])
            if not result.succeeded:
                if len(batch) > 1:
                    return False
                failure = Overtaken()
        except e.EtcdError as exc:
            failure = exc
        for _name, future in batch:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)
        return True

    async def _stop(self, name: str, have: Local, want: Assignment | None) -> None:
        if self.fencing and have.fenced:
            await self._stop_in_time(name)
        else:
            await self.manager.stop(name)
        same = want is not None and digest_of(serialize(want.options)) == have.digest
        self._set_local(name, replace(have, job=LOADED, stopped=not same, done=False))

    async def _stop_in_time(self, name: str) -> None:
        """Stop a fenced unit before another machine may start it, with SIGKILL when it takes too long."""
        stop = asyncio.ensure_future(self.manager.stop(name))
        done, _pending = await asyncio.wait([stop], timeout=self.grace / 2)
        if not done:
            log.warning("%s does not stop, killing it", name)
            await self.manager.kill(name)
        await stop

    # -- fencing ------------------------------------------------------------------

    def _trusted_until(self) -> float:
        """The moment (seconds since boot) until which this machine is surely not taken for dead."""
        return trusted_until(self.memory) if self._lease is None else self._lease.deadline

    async def guard(self) -> None:
        """Stop fenced units when the machine's lease may have ended, and let them go on after reading etcd again."""
        while True:
            left = self._trusted_until() - now()
            if not self.fencing:
                if left > 0:
                    await asyncio.sleep(min(left, 1.0))
                    continue
                self.fencing = True
                self._kick_fenced("the machine may be taken for dead, stopping its OnPartition=stop units")
            elif left > 0 and self._lease is not None:
                try:
                    self._take_listing(await self.etcd.prefix(self.keys.assign(self.machine_id)))
                except e.EtcdError as exc:
                    log.info("still fenced: %s", exc)
                else:
                    self.fencing = False
                    self._kick_fenced("the machine is present again")
                    continue
            await asyncio.sleep(0.2)

    def _kick_fenced(self, words: str) -> None:
        names = [name for name, local in self.local.items() if local.fenced]
        if names:
            log.warning("%s: %s", words, ", ".join(sorted(names)))
        for name in names:
            self._kick(name)

    async def _remove(self, name: str) -> None:
        await self.installer.disable(name)
        await self.manager.reset_failed(name)
        (self.units_directory / name).unlink(missing_ok=True)
        self._set_local(name, None)

    async def drain(self, deadline: float) -> bool:
        """Stop and remove everything; False when that is not done after ``deadline`` seconds."""
        self.draining = True
        for name in list(self.local):
            self._kick(name)
        end = time.monotonic() + deadline
        while self.local and time.monotonic() < end:
            workers = [worker for worker in self._workers.values() if not worker.done()]
            if not workers:
                break
            await asyncio.wait(workers, timeout=end - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        return not self.local

    # -- states ------------------------------------------------------------------

    def on_state(self, name: str, state: ActiveState) -> None:
        """A signal of systemd; parts that it does not tell are ""."""
        if name in self.local:
            self._signals[name] = self._signals.get(name, 0) + 1
            self._see(name, state)

    def on_job(self, name: str, result: str) -> None:
        """Somebody else's job of a unit is over. When it has stopped one that shall run here, that is started again.

        What ended by itself stays as it is: whether it is started again is said in its Restart=.
        """
        local, worker = self.local.get(name), self._workers.get(name)
        state = self.states.get(name)
        if result != "done" or local is None or local.job != LAUNCHED or local.once or local.done or self.draining:
            return
        if state is None or state.active not in ("inactive", "failed") or (worker is not None and not worker.done()):
            return
        moment = time.monotonic()
        last, delay = self._halts.get(name, (0.0, 0.0))
        delay = min(2 * delay, HALT_MOST) if delay and moment - last < 2 * HALT_MOST else HALT_FIRST
        self._halts[name] = (moment, delay)
        log.warning("%s was stopped on this machine, and not by fleet; it is started again in %.0f s", name, delay)
        self._set_local(name, replace(local, job=LOADED))
        asyncio.get_running_loop().call_later(delay, self._kick, name)

    def on_removed(self, name: str) -> None:
        """systemd has forgotten a unit, perhaps only to load it again: what that means is asked, for many at once."""
        if name not in self.local:
            return
        self._look_soon(name)

    def _look_unless_told(self, name: str, signals: int) -> None:
        """A start that changed nothing, as the unit was active already, comes with no signal."""
        if name in self.local and self._signals.get(name, 0) == signals:
            self._look_soon(name)

    def _look_soon(self, name: str) -> None:
        self._forgotten.add(name)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._look_at_forgotten())

    async def _look_at_forgotten(self) -> None:
        while self._forgotten:
            await asyncio.sleep(GATHER_STATES)
            names, self._forgotten = sorted(self._forgotten), set()
            try:
                await self._look(*names)
            except SystemdError as exc:
                # The connection is made anew, and with it all states are read.
                log.warning("the states of %d units are not known: %s", len(names), exc)

    async def _look(self, *names: str) -> None:
        """Ask systemd. A signal that came meanwhile may be newer than the answer, which is read later than it: it wins.

        Nothing is lost by that, because systemd sends a signal after every change that the answer could tell of.
        """
        before = {name: self._signals.get(name, 0) for name in names}
        seen = await self.manager.states(list(names))
        for name, state in seen.items():
            if name not in self.local:
                continue  # removed meanwhile; what was seen last is not to be the beginning of a unit of this name
            told = self._signals.get(name, 0) != before[name]
            self._see(name, ActiveState(state.load) if told else state)

    def _see(self, name: str, state: ActiveState) -> None:
        old = self.states.get(name, ActiveState("loaded", "inactive", "dead"))
        load = state.load or old.load
        if load == "not-found" and name in self.local:
            # systemd forgets stopped units; the file is there and would be loaded.
            load = old.load
        new = ActiveState(load, state.active or old.active, state.sub or old.sub)
        if new != self.states.get(name):
            self.states[name] = new
            self._touch(name)

    async def refresh(self) -> None:
        """Read the states of all local units anew, after a (re)connection."""
        await self._look(*self.local)
        for name, local in list(self.local.items()):
            if local.once and local.job == LAUNCHED and not local.done and self.states[name].active == "inactive":
                # It ended while nobody looked; had it failed, systemd would say so.
                self._set_local(name, replace(local, done=True))

    def _touch(self, name: str) -> None:
        self._dirty.add(name)
        self._publish_news.set()

    async def on_lease(self, lease: Lease | None) -> None:
        """A new lease: everything is written again, and what is no longer here is removed."""
        self._lease = lease
        if lease is None:
            return
        listing = await self.etcd.prefix(self.keys.state(self.machine_id))
        for kv in listing.kvs:
            self._touch(self.keys.split(kv.key)[2])
        for name in self.local:
            self._touch(name)
        self._publish_news.set()
        for name in {*self.errors, *self.desired}:
            self._kick(name)

    async def mend(self, lease: Lease) -> None:
        """Write again what somebody else has overwritten or removed of this machine's states."""
        listing = await self.etcd.prefix(self.keys.state(self.machine_id), keys_only=True)
        found = {self.keys.split(kv.key)[2]: kv.lease for kv in listing.kvs}
        for name in {*self.local, *self.errors, *found}:
            told = name in self.local or (name in self.errors and name in self.desired)
            if found.get(name) != (lease.id if told else None) and name not in self._dirty:
                log.warning("the state of %s in etcd is not what this machine wrote, and is written again", name)
                self._touch(name)

    async def publish(self) -> None:
        """Write changed states to etcd, for ever."""
        delay = 0.2
        while True:
            await self._publish_news.wait()
            await self._gather_states()
            self._publish_news.clear()
            lease = self._lease
            if lease is None or not self._dirty:
                continue
            names, wait = self._due()
            try:
                await self._write_states(names, lease)
                delay = 0.2
            except e.EtcdError as exc:
                self._dirty.update(names)
                log.warning("cannot write unit states: %s", exc)
                wait = delay
                delay = min(delay * 2, 5.0)
            if self._dirty and wait:
                asyncio.get_running_loop().call_later(wait, self._publish_news.set)

    async def _gather_states(self) -> None:
        """Wait a moment for more that is to be told, the longer while units are being started."""
        if self._starting:
            with suppress(TimeoutError):
                async with asyncio.timeout(STARTING_MOST):
                    await self._none_starts.wait()
        await asyncio.sleep(GATHER_STATES)

    def _due(self) -> tuple[list[str], float]:
        """Names whose state may be written now, and the seconds until the next of the others may."""
        moment = time.monotonic()
        due, wait = [], 0.0
        for name in sorted(self._dirty):
            tokens, since = self._budget.get(name, (float(STATE_BURST), moment))
            tokens = min(float(STATE_BURST), tokens + (moment - since) * STATE_RATE)
            if tokens >= 1:
                due.append(name)
                tokens -= 1
            else:
                wait = min(wait or 60.0, (1 - tokens) / STATE_RATE)
            self._budget[name] = (tokens, moment)
        for name in due:
            self._dirty.discard(name)
            if name not in self.local:
                self._budget.pop(name, None)
        return due, wait

    async def _write_states(self, names: list[str], lease: Lease) -> None:
        ops = []
        for name in names:
            if name in self.local or (name in self.errors and name in self.desired):
                ops.append(self._state_op(name, lease))
            else:
                ops.append(e.op_delete(self.keys.state(self.machine_id, name)))
        for start in range(0, len(ops), e.MAX_TXN_OPS):
            await self.etcd.txn([], ops[start : start + e.MAX_TXN_OPS])

    def _state_op(self, name: str, lease: Lease) -> e.Json:
        """The write of the state of a unit that is here, or that should be and cannot."""
        local, error = self.local.get(name), self.errors.get(name, "")
        if local is None:
            state = UnitState(
                name, self.machine_id, self.desired[name].hash, "error", "failed", "failed", INACTIVE, error=error
            )
        else:
            seen = self.states.get(name, ActiveState("loaded", "inactive", "dead"))
            state = UnitState(
                name,
                self.machine_id,
                local.hash,
                seen.load,
                seen.active,
                seen.sub,
                local.job,
                local.done,
                error,
            )
        return e.op_put(self.keys.state(self.machine_id, name), encode_state(state), lease.id)
