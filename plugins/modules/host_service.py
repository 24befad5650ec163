#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_service
short_description: Make systemd services match their descriptions
version_added: 1.0.0
description:
  - Makes accounts, directories, files, links and versioned trees, enables and starts the unit, restarts it when what it
    runs is not what is on disk, and waits until it answers; all in one module call, for one service or for several.
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
    description:
      - Name of the systemd unit, for example V(etcd.service).
      - Exactly one of O(name) and O(services) is needed.
    type: str
  groups: &groups
    description: System groups that have to exist.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the group.
        type: str
        required: true
  users: &users
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
  directories: &directories
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
  files: &files
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
          - A program that is itself one of O(files) is run with its new content.
        type: str
      sensitive:
        description: Never show the content, neither in differences nor in the invocation or in messages.
        type: bool
        default: false
      restart:
        description: Whether the unit has to restart to see a new content.
        type: bool
        default: true
  links: &links
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
  trees: &trees
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
        description: Relative paths and their contents. Exactly one of O(trees[].files) and O(trees[].packed) is needed.
        type: dict
      packed:
        description: The same as one text, from P(flotilla.cluster.file_tree#lookup) with its option C(packed).
        type: str
      compile:
        description: Whether to compile Python files, with the Python that runs this module.
        type: bool
        default: true
      restart:
        description: Whether the unit has to restart to see a new version.
        type: bool
        default: true
  absent: &absent
    description:
      - Files, links and directories to remove, directories with all they hold.
      - Removing something restarts the unit.
    type: list
    elements: str
    default: []
  reads: &reads
    description:
      - Files that somebody else writes and that the unit reads only when it starts, such as authorities.
      - When one has changed since, the unit restarts, or O(restart) says what happens instead.
    type: list
    elements: str
    default: []
  enabled: &enabled
    description: Whether the unit and its O(sockets) start at boot.
    type: bool
    default: true
  state: &state
    description: Whether the unit runs.
    type: str
    choices: [started, stopped]
    default: started
  sockets: &sockets
    description:
      - Units that are enabled and started before the unit, for example V(fleet.socket). They are stopped with it, too.
      - A socket whose own unit file or a drop-in of it is in O(files) is restarted with the unit when that file
        changes, and so is one whose drop-in is in O(absent) when that is removed.
    type: list
    elements: str
    default: []
  restart: &restart
    description:
      - What to do when the running unit does not run what is on disk. A unit that does not run is started in any case.
      - V(auto) restarts it.
      - V(defer) leaves it alone and returns RV(restart_pending); a later call with V(auto) and the same description
        restarts it.
      - V(never) leaves it alone and takes it as up to date, for a service that reads its files again by itself.
    type: str
    choices: [auto, defer, never]
    default: auto
  ready: &ready
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
  ready_timeout: &ready_timeout
    description: Seconds to wait for the unit to start and for all checks to pass.
    type: int
    default: 60
  wait: &wait
    description:
      - Whether to wait until the unit has started and its checks pass, and to fail when it does not come to that.
      - V(false) starts it without waiting, tries each check once and returns RV(ready). It suits a service that needs
        other hosts, when those get their turn later.
    type: bool
    default: true
  etcd_auth: &etcd_auth
    description:
      - For a service that is a member of etcd or needs one. When it is ready, and in the same call, users, roles and
        authentication of that etcd are made as M(flotilla.cluster.etcd_auth) makes them, whose options these are.
      - C(machines) and C(prefix) besides are options of M(flotilla.cluster.fleet_etcd_users). With C(machines) the
        users of machines that left are removed, too.
      - It is left out while O(wait=false) and the service is not ready.
    type: dict
  warnings: &warnings
    description: Sentences about this service that Ansible is to show as warnings when all is done.
    type: list
    elements: str
    default: []
  pki:
    description:
      - Certificates to install before the services start, with the options of M(flotilla.cluster.pki_request), for a
        play that has asked with that module and signed what it returned; it saves a call of its own.
      - Nothing is installed when a service cannot be carried out, and no service is touched when a certificate that is
        due was not signed. In check mode it is left out.
    type: dict
    default: {}
  services:
    description:
      - Several services in one call. Each entry has the options of this module.
      - All are looked at before the first change; their files are written one after the other, systemd is told once,
        and they start side by side. When one does not come up, the others still do before the call fails.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the systemd unit.
        type: str
        required: true
      groups: *groups
      users: *users
      directories: *directories
      files: *files
      links: *links
      trees: *trees
      absent: *absent
      reads: *reads
      enabled: *enabled
      state: *state
      sockets: *sockets
      restart: *restart
      ready: *ready
      ready_timeout: *ready_timeout
      wait: *wait
      etcd_auth: *etcd_auth
      warnings: *warnings
notes:
  - The unit file is one of O(files). systemd is reloaded when a file below C(/etc/systemd/system),
    C(/run/systemd/system) or C(/usr/lib/systemd) changes, or when it says that it should be.
  - Needs nothing but Python's standard library and systemd on the host, and for O(pki) what that module needs.
seealso:
  - module: flotilla.cluster.etcd_auth
  - module: flotilla.cluster.host_info
  - module: flotilla.cluster.pki_request
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

- name: Run two services that start side by side
  flotilla.cluster.host_service:
    services:
      - name: hello.service
        ready:
          - type: tcp
            port: 8000
      - name: docker.service
        sockets: [docker.socket]
"""

RETURN = r"""
files_changed:
  description: Paths that were written, fixed, linked or removed, sorted.
  returned: success, with O(name)
  type: list
  elements: str
  sample: [/etc/systemd/system/hello.service]
started:
  description: Whether the unit was started.
  returned: success, with O(name)
  type: bool
  sample: false
restarted:
  description: Whether the unit was restarted.
  returned: success, with O(name)
  type: bool
  sample: true
restart_pending:
  description: Whether the running unit still has to restart, because O(restart=defer) said so.
  returned: success, with O(name)
  type: bool
  sample: false
restart_reasons:
  description: Why the unit was restarted or has to be, as sentences.
  returned: success, with O(name)
  type: list
  elements: str
  sample: [/etc/systemd/system/hello.service changes]
active_state:
  description: State of the unit at the end, as systemd names it. In check mode, the state it would have.
  returned: success, with O(name)
  type: str
  sample: active
invocation_id:
  description:
    - systemd's identity of this run of the unit; empty when it does not run. In check mode, that of the present run.
  returned: success, with O(name)
  type: str
  sample: 0f1e2d3c4b5a69788796a5b4c3d2e1f0
trees:
  description: For each O(trees[].root) the directory of the version in use.
  returned: success, with O(name)
  type: dict
  sample:
    /usr/lib/flotilla/fleet: /usr/lib/flotilla/fleet/9f2c7be01d34
ready:
  description: Whether the checks passed. Only with O(wait=false) it can be V(false).
  returned: success, with O(name)
  type: bool
  sample: true
etcd_auth:
  description: What was done for O(etcd_auth), or in check mode would be; not there when nobody could be asked.
  returned: with O(etcd_auth)
  type: dict
  contains:
    changes:
      description: One sentence each.
      type: list
      elements: str
      sample: [user fleet-api is new]
    removed:
      description: Ids of the machines whose users were removed.
      type: list
      elements: str
      sample: []
pki:
  description: Files of O(pki) that were written, removed, or got another owner or mode.
  returned: success, with O(pki)
  type: list
  elements: str
  sample: [/etc/flotilla/pki/etcd-client.crt]
services:
  description: What is returned about each of the O(services), by the name of the unit, with C(changed) of its own.
  returned: success, with O(services)
  type: dict
  sample:
    hello.service:
      changed: false
      active_state: active
      ready: true
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

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_run as runs
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_spec as spec
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system


class Installed(t.NamedTuple):
    """Certificates that were installed: the files that were changed, and their diff."""

    files: t.Sequence[str] = ()
    diff: t.Sequence[dict[str, str]] = ()


def look_at(module: AnsibleModule, services: t.Sequence[runs.Service]) -> None:
    """Look and decide. Raises HostError when something cannot be carried out."""
    for service in services:
        service.look()
    problems = runs.problems_of(services, module.check_mode)
    if problems:
        raise system.HostError("Nothing was changed, because this cannot be carried out: " + " ".join(problems))


def install_certificates(module: AnsibleModule) -> Installed:
    """Install what was signed. Raises HostError with a sentence."""
    # loaded only where it is needed: it takes longer to load than a run without changes
    from ansible_collections.flotilla.cluster.plugins.module_utils import _pki_host
    from ansible_collections.flotilla.cluster.plugins.module_utils._pki import PkiError

    try:
        return Installed(
            *_pki_host.install(module.params["pki"], lambda command: module.run_command(command, check_rc=True))
        )
    except PkiError as error:
        raise system.HostError(f"pki: {error}.") from None


def make_it_so(module: AnsibleModule, services: t.Sequence[runs.Service]) -> Installed:
    """Look, decide and, unless in check mode, act. Raises HostError and NotUp."""
    installed = Installed()
    look_at(module, services)
    if not module.check_mode:
        if module.params["pki"]:
            installed = install_certificates(module)
            # what services read has changed
            look_at(module, services)
        runs.carry_out(services)
        return installed
    for service in services:
        for sentence in service.planned.unknown_owners:
            module.warn(sentence)
        spec.try_validators(service.planned)
        service.foresee_access()
    return installed


def results_of(module: AnsibleModule, services: t.Sequence[runs.Service], installed: Installed) -> dict[str, t.Any]:
    """The module's result."""
    found = {service.name: service.result(module.check_mode, module._diff) for service in services}
    diff = list(installed.diff) if module._diff else []
    diff += [part for one in found.values() for part in one.pop("diff", [])]
    return {
        **(next(iter(found.values())) if module.params["services"] is None else {"services": found}),
        "changed": bool(installed.files) or any(one["changed"] for one in found.values()),
        **({"pki": list(installed.files)} if module.params["pki"] else {}),
        **({"diff": diff} if diff else {}),
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=spec.ARGUMENTS,
        supports_check_mode=True,
        mutually_exclusive=[("name", "services")],
        required_one_of=[("name", "services")],
    )
    # The whole of files and trees was secret up to here; from here on, only what is sensitive.
    module.no_log_values = spec.secrets(module.params)
    params, module.params = module.params, {**module.params, **spec.printable(module.params)}
    services: list[runs.Service] = []
    installed = Installed()
    problem = ""
    more: dict[str, t.Any] = {}
    try:
        services = [runs.Service(described) for described in spec.described(params)]
        if module.check_mode:
            installed = make_it_so(module, services)
        else:
            with runs.locked(services):
                system.clean_up([service.desired for service in services])
                installed = make_it_so(module, services)
    except runs.NotUp as error:
        problem = error.message
        more = {"journal": error.journal, **({"not_ready": error.not_ready} if error.not_ready else {})}
    except (ValueError, system.HostError) as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or 'this host'}: {error.strerror or error}"
    # Outside of the handlers, so that Ansible adds no traceback to what is a sentence for the user.
    if problem:
        module.fail_json(msg=problem, **more)
    for service in services:
        for sentence in service.warnings:
            module.warn(sentence)
    module.exit_json(**results_of(module, services, installed))


if __name__ == "__main__":
    main()
