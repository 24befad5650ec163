#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_service
short_description: Make one systemd service match its description
version_added: 1.0.0
description:
  - Makes accounts, directories, files, links and versioned trees, enables and starts the unit, restarts it when what it
    runs is not what is on disk, and waits until it answers; all in one module call.
  - Everything is looked at first. Nothing is written when the host already matches, and nothing at all when one entry
    cannot be carried out.
  - All new files are written beside their targets, checked with their O(files[].validate) command and only then
    switched, each atomically.
  - Whether the unit has to restart is decided from the state of the host. A note under C(/run/flotilla/) says which
    content the running process was started with, so a play that was killed between writing a file and the restart
    heals on its next run.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
    details:
      - It also works on a host where accounts and directories do not exist yet.
  diff_mode:
    support: full
    details:
      - The content of sensitive files is left out.
  idempotent:
    support: partial
    details:
      - A unit that ends by itself, such as C(Type=oneshot) without C(RemainAfterExit=yes), is started by each call.
options:
  name:
    description: Name of the systemd unit, for example V(etcd.service).
    type: str
    required: true
  groups:
    description: System groups that have to exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the group.
        type: str
        required: true
  users:
    description:
      - System users that have to exist.
      - A user that exists keeps its home, shell and primary group; missing supplementary groups are added.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      group:
        description: Primary group. Defaults to the name of the user.
        type: str
      home:
        description: Home directory. It is not created; describe it in O(directories) when it is needed.
        type: str
        default: /nonexistent
      shell:
        description: Login shell.
        type: str
        default: /usr/sbin/nologin
      groups:
        description: Supplementary groups.
        type: list
        elements: str
        default: []
  directories:
    description: Directories that have to exist. Parents that are missing are made with mode V(0755).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: str
        required: true
      owner:
        description: Owner, by name or number.
        type: str
        default: root
      group:
        description: Group, by name or number.
        type: str
        default: root
      mode:
        description: Mode in octal.
        type: str
        default: '0755'
  files:
    description: Files that have to exist with this content. A link in the way is replaced by the file.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path. Directories that are missing are made with mode V(0755).
        type: str
        required: true
      content:
        description: The content. Exactly one of O(files[].content) and O(files[].content_b64) is needed.
        type: str
      content_b64:
        description: The content in base64, for bytes that are no text.
        type: str
      owner:
        description: Owner, by name or number.
        type: str
        default: root
      group:
        description: Group, by name or number.
        type: str
        default: root
      mode:
        description: Mode in octal.
        type: str
        default: '0644'
      validate:
        description:
          - Command that has to succeed on the new content before any file is switched. V(%s) stands for the path of
            the new content.
          - It is run without a shell. In check mode it is run when its program is there.
        type: str
      sensitive:
        description: Never show the content, neither in differences nor in the invocation or in messages.
        type: bool
        default: false
      restart:
        description: Whether the unit has to restart to see a new content.
        type: bool
        default: true
  links:
    description: Symbolic links that have to exist. Only a link is replaced; anything else in the way is an error.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path of the link.
        type: str
        required: true
      target:
        description: What the link points at.
        type: str
        required: true
      restart:
        description: Whether the unit has to restart to see a new target.
        type: bool
        default: true
  trees:
    description:
      - Directories of text files that are switched as a whole.
      - A tree lives in C(<root>/<version>), where the version is made from its content, and C(<root>/<link>) points at
        it. The version used before is kept, older ones are removed.
    type: list
    elements: dict
    default: []
    suboptions:
      root:
        description: Absolute path of the directory that holds the versions.
        type: str
        required: true
      link:
        description: Name of the link in O(trees[].root) that points at the version in use.
        type: str
        default: current
      files:
        description: Relative paths and their contents.
        type: dict
        required: true
      compile:
        description: Whether to compile Python files, with the Python that runs this module.
        type: bool
        default: true
      restart:
        description: Whether the unit has to restart to see a new version.
        type: bool
        default: true
  absent:
    description:
      - Files, links and directories to remove, directories with all they hold.
      - Removing something restarts the unit.
    type: list
    elements: str
    default: []
  enabled:
    description: Whether the unit and its O(sockets) start at boot.
    type: bool
    default: true
  state:
    description: Whether the unit runs.
    type: str
    choices: [started, stopped]
    default: started
  sockets:
    description:
      - Units that are enabled and started before the unit, for example V(fleet.socket). They are stopped with it, too.
      - A socket whose own unit file is in O(files) is restarted with the unit when that file changes.
    type: list
    elements: str
    default: []
  restart:
    description:
      - What to do when the running unit does not run what is on disk. A unit that does not run is started in any case.
      - V(auto) restarts it.
      - V(defer) leaves it alone and returns RV(restart_pending); a later call with V(auto) and the same description
        restarts it.
      - V(never) leaves it alone and takes it as up to date, for a service that reads its files again by itself.
    type: str
    choices: [auto, defer, never]
    default: auto
  ready:
    description:
      - Checks that have to pass before the module ends. They are not run in check mode.
      - They run in each call, also when nothing changed, so a service that has stopped answering is found.
    type: list
    elements: dict
    default: []
    suboptions:
      type:
        description: Kind of check. A connection, an HTTP request or a command that ends with 0.
        type: str
        choices: [tcp, http, command]
        required: true
      host:
        description: Host for V(tcp).
        type: str
        default: 127.0.0.1
      port:
        description: Port for V(tcp).
        type: int
      url:
        description: URL for V(http).
        type: str
      unix_socket:
        description: Path of a Unix socket for V(http), in place of O(ready[].url).
        type: path
      path:
        description: Path to ask for on O(ready[].unix_socket).
        type: str
        default: /
      status:
        description: Status codes that mean ready.
        type: list
        elements: int
        default: [200]
      ca:
        description: Certificate authority that signed the server's certificate, a path on the host.
        type: path
      cert:
        description: Client certificate, a path on the host.
        type: path
      key:
        description: Key of the client certificate, a path on the host.
        type: path
      argv:
        description: Command for V(command) with its arguments. It is run without a shell.
        type: list
        elements: str
      contains:
        description: Text that the answer has to contain.
        type: str
  ready_timeout:
    description: Seconds to wait for the unit to start and for all checks to pass.
    type: int
    default: 60
notes:
  - The unit file is one of O(files). systemd is reloaded when a file below C(/etc/systemd/system),
    C(/run/systemd/system) or C(/usr/lib/systemd) changes, or when it says that it should be.
  - Needs nothing but Python's standard library and systemd on the host.
seealso:
  - module: flotilla.cluster.host_info
"""

EXAMPLES = r"""
---
- name: Run a small web server
  flotilla.cluster.host_service:
    name: hello.service
    groups:
      - name: hello
    users:
      - name: hello
        home: /srv/hello
    directories:
      - path: /srv/hello
        owner: hello
        group: hello
        mode: '0750'
    files:
      - path: /etc/systemd/system/hello.service
        content: |
          [Service]
          User=hello
          WorkingDirectory=/srv/hello
          ExecStart=/usr/bin/python3 -m http.server 8000
          [Install]
          WantedBy=multi-user.target
        validate: systemd-analyze verify %s
    ready:
      - type: http
        url: http://127.0.0.1:8000/

- name: Install a new configuration, but leave the restart to a later task
  flotilla.cluster.host_service:
    name: docker.service
    restart: defer
    files:
      - path: /etc/docker/daemon.json
        content: '{"live-restore": true}'
  register: docker
"""

RETURN = r"""
files_changed:
  description: Paths that were written, fixed, linked or removed, sorted.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/hello.service]
started:
  description: Whether the unit was started.
  returned: success
  type: bool
  sample: false
restarted:
  description: Whether the unit was restarted.
  returned: success
  type: bool
  sample: true
restart_pending:
  description: Whether the running unit still has to restart, because O(restart=defer) said so.
  returned: success
  type: bool
  sample: false
restart_reasons:
  description: Why the unit was restarted or has to be, as sentences.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/hello.service changes]
active_state:
  description: State of the unit at the end, as systemd names it. In check mode, the state it would have.
  returned: success
  type: str
  sample: active
invocation_id:
  description:
    - systemd's identity of this run of the unit; empty when it does not run. In check mode, that of the present run.
  returned: success
  type: str
  sample: 0f1e2d3c4b5a69788796a5b4c3d2e1f0
trees:
  description: For each O(trees[].root) the directory of the version in use.
  returned: success
  type: dict
  sample:
    /usr/lib/flotilla/fleet: /usr/lib/flotilla/fleet/9f2c7be01d34
not_ready:
  description: The checks that never passed and their last answers.
  returned: when the unit did not become ready
  type: list
  elements: str
  sample: ['GET http://127.0.0.1:8000/: Connection refused']
journal:
  description: The last lines of the unit's journal.
  returned: when the unit did not start or did not become ready
  type: list
  elements: str
  sample: []
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_plan as plans
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_spec as spec
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system

# What the unit said since then belongs to this run.
BEGIN = time.time()


def fail_unit(module: AnsibleModule, name: str, message: str, **more: t.Any) -> t.NoReturn:
    """Fail with the state of the unit and the end of its journal."""
    unit = system.look_at_units([name])[name]
    journal = system.journal_tail(name, BEGIN)
    said = " Its journal ends with:\n" + "\n".join(journal) if journal else " Its journal is empty."
    module.fail_json(msg=f"{message} {name} is {unit.active} ({unit.sub}).{said}", journal=journal, **more)


def act(module: AnsibleModule, desired: plans.Desired, observed: plans.Observed, plan: plans.Plan) -> plans.UnitState:
    """Carry out a plan and wait until the unit answers. Returns the state of the unit at the end."""
    name = desired.name
    digest = plans.restart_digest(desired)
    before = observed.units.get(name, plans.UnitState())
    deadline = time.monotonic() + module.params["ready_timeout"]

    def mark_pending() -> None:
        if before.running:
            system.write_stamp(name, plans.Stamp(digest, before.invocation, pending=desired.restart != "never"))

    try:
        system.stop_units(name, plan, module.params["ready_timeout"])
        system.write_plan(plan, mark_pending)
        system.change_unit_files(plan)
        if desired.state == "stopped":
            return system.look_at_units([name])[name] if plan.changed else before
        system.start_units(name, plan, before, max(1.0, deadline - time.monotonic()))
    except system.UnitError as error:
        problem = f"{error}."
    else:
        problem = ""
    if problem:
        fail_unit(module, name, problem)

    after = system.look_at_units([name])[name] if plan.action != "none" else before
    if not plan.restart_due:
        stamp = plans.Stamp(digest, after.invocation)
        if stamp != observed.stamp or plan.touches_running:
            system.write_stamp(name, stamp)
    return wait(module, name, after, deadline, settled=plan.action == "none" and after.active == "active")


def wait(module: AnsibleModule, name: str, unit: plans.UnitState, deadline: float, settled: bool) -> plans.UnitState:
    """Wait until all checks pass and the unit is up; fail with the reason when it does not come to that."""
    checks = module.params["ready"]
    missing: list[str] = []
    if checks:
        from ansible_collections.flotilla.cluster.plugins.module_utils import _host_ready

        def alive() -> bool:
            return system.look_at_units([name])[name].active != "failed"

        missing = _host_ready.wait_ready(checks, deadline, alive)
        settled = settled and not missing
    if missing:
        took = module.params["ready_timeout"] - (deadline - time.monotonic())
        message = f"{name} is not ready after {took:.0f} s: {'; '.join(missing)}."
        fail_unit(module, name, message, not_ready=missing)
    if not settled:
        unit = system.look_at_units([name])[name]
        while unit.active in ("activating", "reloading") and unit.sub != "auto-restart" and time.monotonic() < deadline:
            time.sleep(0.1)
            unit = system.look_at_units([name])[name]
        if not unit.running and not (unit.active == "inactive" and unit.succeeded):
            fail_unit(module, name, f"{name} was started but did not stay up.")
    return unit


def make_it_so(module: AnsibleModule, desired: plans.Desired) -> dict[str, t.Any]:
    """Look, decide and, unless in check mode, act. Returns the module's result."""
    observed = system.observe(desired)
    plan = plans.make_plan(desired, observed)
    problems = [*plan.problems, *([] if module.check_mode else plan.unknown_owners)]
    if problems:
        module.fail_json(msg="Nothing was changed, because this cannot be carried out: " + " ".join(problems))
    result: dict[str, t.Any] = {
        "changed": plan.changed,
        "files_changed": plan.paths,
        "started": plan.action == "start",
        "restarted": plan.action == "restart",
        "restart_pending": plan.restart_due,
        "restart_reasons": list(plan.reasons) if plan.action == "restart" or plan.restart_due else [],
        "trees": {tree.root: f"{tree.root}/{tree.version}" for tree in desired.trees},
    }
    if module._diff and plan.changed:
        result["diff"] = spec.differences(desired, observed, plan)
    if module.check_mode:
        for sentence in plan.unknown_owners:
            module.warn(sentence)
        spec.try_validators(plan)
        unit = observed.units.get(desired.name, plans.UnitState())
        active = {"none": unit.active, "stop": "inactive"}.get(plan.action, "active")
    else:
        unit = act(module, desired, observed, plan)
        active = unit.active
    return {**result, "active_state": active, "invocation_id": unit.invocation}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=spec.ARGUMENTS, supports_check_mode=True)
    # The whole of files and trees was secret up to here; from here on, only what is sensitive.
    module.no_log_values = spec.secrets(module.params)
    params, module.params = module.params, {**module.params, **spec.printable(module.params)}
    result: dict[str, t.Any] = {}
    try:
        desired = spec.desired_from(params)
        if module.check_mode:
            result = make_it_so(module, desired)
        else:
            with system.locked(desired.name):
                system.clean_up(desired)
                result = make_it_so(module, desired)
    except (ValueError, system.HostError) as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or params['name']}: {error.strerror or error}"
    else:
        problem = ""
    # Outside of the handlers, so that Ansible adds no traceback to what is a sentence for the user.
    if problem:
        module.fail_json(msg=problem)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
