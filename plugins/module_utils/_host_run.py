# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""What C(host_service) does with its services: files one after the other, systemd once, starts side by side.

A service is looked at and planned on its own (`_host_plan`). Only when none of them has a problem is anything changed.
"""

from __future__ import annotations

import contextlib
import threading
import time
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _host_plan as plans
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_spec as spec
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system

# What a unit said since then belongs to this run.
BEGIN = time.time()


class NotUp(Exception):
    """A unit did not start or does not answer.

    :ivar message: sentences for the user, the end of the unit's journal included
    :ivar journal: the last lines of the journal
    :ivar not_ready: a sentence for each check that never passed
    """

    def __init__(self, name: str, problem: str, not_ready: t.Sequence[str] = ()) -> None:
        unit = system.look_at_units([name])[name]
        self.journal = system.journal_tail(name, BEGIN)
        self.not_ready = list(not_ready)
        said = " Its journal ends with:\n" + "\n".join(self.journal) if self.journal else " Its journal is empty."
        self.message = f"{problem} {name} is {unit.active} ({unit.sub}).{said}"
        super().__init__(self.message)


class Service:
    """One service on its way from its description to a unit that answers."""

    def __init__(self, params: t.Mapping[str, t.Any]) -> None:
        """Take checked parameters. Raises ValueError with one sentence for the user."""
        self.desired = spec.desired_from(params)
        self.name = self.desired.name
        self.checks: t.Sequence[t.Mapping[str, t.Any]] = params["ready"]
        self.timeout: int = params["ready_timeout"]
        self.patient: bool = params["wait"]
        self.warnings: t.Sequence[str] = params["warnings"]
        self.observed = plans.Observed()
        self.plan: plans.Plan | None = None
        self.unit = plans.UnitState()
        self.ready = True
        self.deadline = 0.0
        self.access: t.Mapping[str, t.Any] | None = None
        self.changes: list[str] = []
        self.accessed: dict[str, t.Any] = {}
        if params["etcd_auth"]:
            from ansible_collections.flotilla.cluster.plugins.module_utils import _host_access

            self.access = _host_access.checked(params["etcd_auth"])

    @property
    def planned(self) -> plans.Plan:
        """The plan; `look` comes first."""
        if self.plan is None:
            raise ValueError(f"{self.name}: nothing was looked at yet.")
        return self.plan

    def look(self) -> None:
        """Look at the host and decide."""
        self.observed = system.observe(self.desired)
        self.plan = plans.make_plan(self.desired, self.observed)
        self.unit = self.observed.units.get(self.name, plans.UnitState())

    def write(self) -> None:
        """Stop what has to stop, and bring all files to where they belong."""
        self.deadline = time.monotonic() + self.timeout
        try:
            system.stop_units(self.name, self.planned, self.timeout)
        except system.UnitError as error:
            problem = f"{error}."
        else:
            problem = ""
        if problem:
            raise NotUp(self.name, problem)
        system.write_plan(self.planned, self._mark_pending)

    def _mark_pending(self) -> None:
        if self.unit.running:
            digest = plans.restart_digest(self.desired, self.observed)
            system.write_stamp(
                self.name, plans.Stamp(digest, self.unit.invocation, pending=self.desired.restart != "never")
            )

    def bring_up(self) -> None:
        """Start or restart the unit and wait until it answers."""
        plan, before = self.planned, self.unit
        if self.desired.state == "stopped":
            self.unit = system.look_at_units([self.name])[self.name] if plan.changed else before
            return
        problem = ""
        try:
            left = max(1.0, self.deadline - time.monotonic())
            system.start_units(self.name, plan, before, left, block=self.patient)
        except system.UnitError as error:
            problem = f"{error}."
        if problem:
            raise NotUp(self.name, problem)
        self.unit = system.look_at_units([self.name])[self.name] if plan.action != "none" else before
        if not plan.restart_due:
            stamp = plans.Stamp(plans.restart_digest(self.desired, self.observed), self.unit.invocation)
            if stamp != self.observed.stamp or plan.touches_running:
                system.write_stamp(self.name, stamp)
        self._wait(settled=plan.action == "none" and self.unit.active == "active")
        if self.ready:
            self._give_access()

    def _give_access(self) -> None:
        """Make the users of the etcd that answers now."""
        if self.access is None:
            return
        from ansible_collections.flotilla.cluster.plugins.module_utils import _host_access
        from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError

        problem = ""
        try:
            self._accessed(_host_access.make(self.access, self.deadline, False))
        except ClusterError as error:
            problem = f"{self.name}: its users cannot be made: {error}."
        if problem:
            raise system.HostError(problem)

    def foresee_access(self) -> None:
        """What `_give_access` would do, as far as there is somebody to ask."""
        if self.access is None or self.desired.state == "stopped":
            return
        from ansible_collections.flotilla.cluster.plugins.module_utils import _host_access
        from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError

        # an etcd that is not there yet, or whose users get their passwords only in a run that changes something
        with contextlib.suppress(ClusterError):
            self._accessed(_host_access.make(self.access, time.monotonic(), True))

    def _accessed(self, done: t.Any) -> None:
        self.changes = done.changes
        self.accessed = done._asdict()

    def _alive(self) -> bool:
        return system.look_at_units([self.name])[self.name].active != "failed"

    def _wait(self, settled: bool) -> None:
        """Wait until all checks pass and the unit is up."""
        deadline = self.deadline if self.patient else time.monotonic()
        missing: list[str] = []
        if self.checks:
            from ansible_collections.flotilla.cluster.plugins.module_utils import _host_ready

            missing = _host_ready.wait_ready(self.checks, deadline, self._alive)
        if not self.patient:
            self.ready = not missing and (settled or system.look_at_units([self.name])[self.name].active == "active")
            return
        if missing:
            took = self.timeout - (self.deadline - time.monotonic())
            raise NotUp(self.name, f"{self.name} is not ready after {took:.0f} s: {'; '.join(missing)}.", missing)
        if not settled:
            self._settle()

    def _settle(self) -> None:
        """Wait until the unit has started; one that ends by itself and well has done so, too."""
        unit = system.look_at_units([self.name])[self.name]
        while (
            unit.active in ("activating", "reloading")
            and unit.sub != "auto-restart"
            and time.monotonic() < self.deadline
        ):
            time.sleep(0.1)
            unit = system.look_at_units([self.name])[self.name]
        if not unit.running and not (unit.active == "inactive" and unit.succeeded):
            raise NotUp(self.name, f"{self.name} was started but did not stay up.")
        self.unit = unit

    def result(self, check_mode: bool, diff: bool) -> dict[str, t.Any]:
        """What the module returns about this service."""
        plan = self.planned
        active = self.unit.active
        if check_mode:
            active = {"none": active, "stop": "inactive"}.get(plan.action, "active")
        found: dict[str, t.Any] = {
            "changed": plan.changed or bool(self.changes),
            "files_changed": plan.paths,
            "started": plan.action == "start",
            "restarted": plan.action == "restart",
            "restart_pending": plan.restart_due,
            "restart_reasons": list(plan.reasons) if plan.action == "restart" or plan.restart_due else [],
            "trees": {tree.root: f"{tree.root}/{tree.version}" for tree in self.desired.trees},
            "active_state": active,
            "invocation_id": self.unit.invocation,
            "ready": self.ready,
        }
        users_diff = self.accessed.pop("diff", None)
        if self.accessed:
            found["etcd_auth"] = self.accessed
        if diff and plan.changed:
            found["diff"] = spec.differences(self.desired, self.observed, plan)
        if diff and self.changes:
            found.setdefault("diff", []).append(users_diff)
        return found


@contextlib.contextmanager
def locked(services: t.Sequence[Service]) -> t.Iterator[None]:
    """Keep other runs away from all of these units. The order is the same for everybody, so none waits for ever."""
    with contextlib.ExitStack() as held:
        for name in sorted({service.name for service in services}):
            held.enter_context(system.locked(name))
        yield


def doubled(services: t.Sequence[Service]) -> list[str]:
    """What is described by more than one service, as sentences."""
    seen: dict[str, str] = {}
    problems = []
    for service in services:
        desired = service.desired
        paths = [f.path for f in desired.files] + [x.path for x in desired.links] + [x.root for x in desired.trees]
        for what in (service.name, *paths):
            if what in seen:
                problems.append(f"{what} is described for {seen[what]} and for {service.name}; keep one of them.")
            seen[what] = service.name
    return problems


def problems_of(services: t.Sequence[Service], check_mode: bool) -> list[str]:
    """Why nothing can be changed, as sentences."""
    found = doubled(services)
    for service in services:
        found += [*service.planned.problems, *([] if check_mode else service.planned.unknown_owners)]
    return found


def carry_out(services: t.Sequence[Service]) -> None:
    """Make all services so. Raises NotUp for those that did not come up, after the others did, and HostError."""
    for service in services:
        service.write()
    try:
        system.change_unit_files([service.planned for service in services])
    except system.UnitError as error:
        raise system.HostError(f"{error}.") from None
    if len(services) == 1:
        services[0].bring_up()
    else:
        _all_at_once([service.bring_up for service in services])


def _all_at_once(works: t.Sequence[t.Callable[[], None]]) -> None:
    """Run all; afterwards raise what the first of those raised that failed, with what the others said."""
    failed: list[BaseException] = []

    def attempt(work: t.Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=attempt, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failed:
        if not isinstance(error, NotUp):
            raise error
    if failed:
        first, *others = [error for error in failed if isinstance(error, NotUp)]
        first.message = "\n".join([first.message, *(other.message for other in others)])
        raise first
