#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cloud_config_apply
short_description: Bring a running host to the description of its first boot
version_added: 1.0.0
description:
  - Writes the files that CoreOS's agent would write for a cloud-config, makes the users, and enables and commands the
    units, on a host that has no such agent.
  - What an earlier call has written and the description does not hold any more is removed. Units that came from it are
    stopped and disabled.
  - systemd is reloaded once. A unit is started when it does not run, and restarted when its own files have changed; a
    note of that is kept, so that a call that was killed is made up for by the next one.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Contents of files that only their owner may read are left out.
  idempotent:
    support: full
options:
  config:
    description: The description, as O(flotilla.cluster.cloud_config#module:config) takes it.
    type: dict
    required: true
  addresses:
    description: Values of C(private_ipv4) and its like; C(/etc/environment) gets them as well.
    type: dict
    default: {}
  persistent:
    description:
      - Whether settings of C(coreos.etcd2), C(coreos.fleet) and so on outlive a boot. They are drop-ins below
        C(/etc/systemd/system) then, and below C(/run/systemd/system) otherwise, where the original puts them at each
        boot.
    type: bool
    default: true
notes:
  - C(networks) become files of systemd-networkd, which has to run the host's network. C(filesystems) and C(packages)
    are refused, as they are for a first boot.
  - Needs PyYAML on no host, and nothing else but Python's standard library and systemd.
seealso:
  - module: flotilla.cluster.cloud_config
"""

EXAMPLES = r"""
---
- name: Bring a host to its description
  flotilla.cluster.cloud_config_apply:
    config:
      write_files:
        - path: /etc/motd
          content: "{{ inventory_hostname }}\n"
      coreos:
        units:
          - name: hello.service
            command: start
            content: |
              [Service]
              ExecStart=/usr/bin/sleep infinity
    addresses:
      private_ipv4: "{{ ansible_host }}"
"""

RETURN = r"""
files_changed:
  description: Paths that were written, linked or removed.
  returned: success
  type: list
  elements: str
  sample: [/etc/motd]
users_added:
  description: Users that were made.
  returned: success
  type: list
  elements: str
units:
  description: What was done with units, in this order.
  returned: success
  type: list
  elements: str
  sample: ["start hello.service"]
findings:
  description: What was found in the description, as M(flotilla.cluster.cloud_config) returns it.
  returned: always
  type: list
  elements: dict
"""

import grp
import json
import os
import pwd
import socket
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud as cloud
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_apply as apply
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import difference
from ansible_collections.flotilla.cluster.plugins.module_utils._host_system import HostError

HIDDEN = "(not shown: only its owner may read it)\n"


def read_manifest() -> apply.Manifest:
    """What earlier calls have left; HostError when it cannot be read."""
    try:
        with open(apply.MANIFEST, encoding="utf-8") as stream:
            return apply.Manifest.from_data(json.load(stream))
    except FileNotFoundError:
        return apply.Manifest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HostError(
            f"{apply.MANIFEST} is damaged ({error!r}), so what earlier calls wrote is not known; remove the file to"
            " go on, and what is not wanted any more by hand"
        ) from error


def save_manifest(manifest: apply.Manifest) -> None:
    os.makedirs(os.path.dirname(apply.MANIFEST), exist_ok=True)
    text = json.dumps(manifest.as_data(), indent=1, sort_keys=True) + "\n"
    system.write_atomically(apply.MANIFEST, text.encode(), 0o600)


def _keys_path(home: str) -> str:
    return os.path.join(home, ".ssh", "authorized_keys")


def read_accounts(names: t.Iterable[str]) -> dict[str, apply.Account]:
    """Those of the users that exist."""
    hashes: dict[str, str] = {}
    try:
        with open("/etc/shadow", encoding="utf-8", errors="replace") as stream:
            hashes = dict(line.split(":", 2)[:2] for line in stream if line.count(":") > 1)
    except OSError:
        hashes = {}
    found = {}
    for name in names:
        try:
            home = pwd.getpwnam(name).pw_dir
        except KeyError:
            continue
        lines: list[str] = []
        try:
            with open(_keys_path(home), encoding="utf-8", errors="replace") as stream:
                lines = stream.read().splitlines()
        except OSError:
            lines = []
        found[name] = apply.Account(hashes.get(name, ""), tuple(lines))
    return found


def look(desired: apply.Desired) -> apply.Observed:
    """The host as it is."""
    manifest = read_manifest()
    names = {user.name for user in desired.users} | set(manifest.keys)
    units = list(dict.fromkeys([*apply.units_of(desired, manifest), *_touched_sections(desired)]))
    return apply.Observed(
        paths={path: system.look_at_path(path, True) for path in apply.paths_of(desired, manifest)},
        accounts=read_accounts(names),
        groups=frozenset(group.gr_name for group in grp.getgrall()),
        # without a name systemd would tell of itself
        units=system.look_at_units(units) if units else {},
        hostname=socket.gethostname(),
        manifest=manifest,
    )


def _touched_sections(desired: apply.Desired) -> list[str]:
    """Units that sections give settings to."""
    names = [apply.unit_of_path(file.path) for file in desired.files]
    return [name for name in names if name and not name.endswith((".network", ".netdev", ".link"))]


class Worker:
    """Carries a plan out."""

    def __init__(self, module: AnsibleModule, plan: apply.Plan, observed: apply.Observed) -> None:
        self.module, self.plan, self.observed = module, plan, observed
        self.done: list[str] = []

    def run(self) -> list[str]:
        """All of it; what was done with units. HostError when something could not be."""
        plan = self.plan
        # until the end, both the old and the new are ours
        both = plan.manifest._replace(
            files={**self.observed.manifest.files, **plan.manifest.files},
            links={**self.observed.manifest.links, **plan.manifest.links},
            enabled=tuple(dict.fromkeys([*self.observed.manifest.enabled, *plan.manifest.enabled])),
            started=tuple(dict.fromkeys([*self.observed.manifest.started, *plan.manifest.started])),
            pending=plan.touched,
        )
        save_manifest(both)
        try:
            self._people()
            self._files()
        except OSError as error:
            raise HostError(f"{error.filename}: {error.strerror}") from error
        self._units()
        save_manifest(plan.manifest)
        return self.done

    def _people(self) -> None:
        for name in self.plan.groups:
            system.must(["groupadd", "--system", name], f"making the group {name}")
        for user in self.plan.users:
            system.must(apply.user_command(user), f"making the user {user.name}")
        for name, password in self.plan.passwords:
            code, _out, said = self.module.run_command(["chpasswd", "--encrypted"], data=f"{name}:{password}")
            if code:
                raise HostError(f"setting the password of {name} failed: {said.strip()}")
        for name, lines in self.plan.keys:
            entry = pwd.getpwnam(name)
            path = _keys_path(entry.pw_dir)
            folder = os.path.dirname(path)
            if not os.path.isdir(folder):
                os.makedirs(folder, 0o700)
                os.chown(folder, entry.pw_uid, entry.pw_gid)
            text = "".join(f"{line}\n" for line in lines)
            system.write_atomically(path, text.encode(), 0o600, (entry.pw_uid, entry.pw_gid))

    def _files(self) -> None:
        for directory in self.plan.directories:
            os.makedirs(directory.path, exist_ok=True)
            os.chown(directory.path, *_ids(directory.owner, directory.group))
            os.chmod(directory.path, directory.mode)
        for file in self.plan.write:
            os.makedirs(os.path.dirname(file.path), exist_ok=True)
            system.write_atomically(file.path, file.content, file.mode, _ids(file.owner, file.group))
        for file in self.plan.fix:
            os.chown(file.path, *_ids(file.owner, file.group))
            os.chmod(file.path, file.mode)
        if self.plan.hostname:
            system.write_atomically("/etc/hostname", f"{self.plan.hostname}\n".encode(), 0o644)
            system.must(["hostname", self.plan.hostname], "setting the host's name")

    def _units(self) -> None:
        plan = self.plan
        for name in plan.stop:
            self._systemctl("stop", name)
        for name in plan.disable:
            self._systemctl("disable", name)
        for path in plan.remove:
            os.unlink(path)
            _remove_empty(os.path.dirname(path))
        for path, target in plan.links:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            system.link_atomically(path, target)
        if plan.reload:
            system.must(["systemctl", "daemon-reload"], "reloading systemd", 90)
        if plan.networkd:
            self._systemctl("restart", "systemd-networkd.service")
        for name in plan.enable:
            self._systemctl("enable", name)
        for command, name in plan.actions:
            self._systemctl(command, name)

    def _systemctl(self, command: str, unit: str) -> None:
        system.must(["systemctl", command, unit], f"{command} of {unit}", 120)
        self.done.append(f"{command} {unit}")


def _ids(owner: str, group: str) -> tuple[int, int]:
    try:
        return system.owner_ids(owner, group)
    except KeyError as error:
        raise HostError(f"there is no user or group of that name: {error}; add it to users or groups") from error


def _remove_empty(folder: str) -> None:
    """Remove a folder of drop-ins or links when nothing is left in it."""
    if folder.endswith((".d", ".wants", ".requires")) and not os.listdir(folder):
        os.rmdir(folder)


def differences(plan: apply.Plan, observed: apply.Observed) -> list[dict[str, str]]:
    """What changes, as Ansible shows it."""
    shown = []
    for file in plan.write:
        before = observed.paths[file.path].content
        old = "" if before is None else before.decode("utf-8", "replace")
        new = file.content.decode("utf-8", "replace")
        if not file.mode & 0o077:
            old, new = HIDDEN if old else "", HIDDEN
        shown.append(difference(file.path, old, new))
    shown += [difference(path, "", f"link to {target}\n") for path, target in plan.links]
    shown += [difference(path, "present\n", "absent\n") for path in plan.remove]
    shown += [difference(f"user {user.name}", "", "present\n") for user in plan.users]
    lines = [f"{command} {unit}\n" for command, unit in planned(plan)]
    return [*shown, difference("units", "", "".join(lines))] if lines else shown


def planned(plan: apply.Plan) -> list[tuple[str, str]]:
    """What will be done with units."""
    return [
        *(("stop", name) for name in plan.stop),
        *(("disable", name) for name in plan.disable),
        *(("enable", name) for name in plan.enable),
        *plan.actions,
    ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "dict", "required": True},
            "addresses": {"type": "dict", "default": {}},
            "persistent": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    checked = lint.check_data(params["config"], addresses=params["addresses"], allow_secrets=True)
    findings = [*checked.findings, *cloud.address_problems(params["addresses"])]
    findings += [
        lint.Finding("not-expressible", lint.ERROR, 0, key, "is for a first boot; leave it out for a host that runs")
        for key in ("filesystems", "packages")
        if checked.data.get(key)
    ]
    model = models.Model()
    if not any(one.severity == lint.ERROR for one in findings):
        model = models.build(lint.substitute(checked.data, params["addresses"]), params["addresses"])
        findings += cloud.network_problems(model)
    said = [one.as_dict() for one in findings]
    errors = [one.sentence() for one in findings if one.severity == lint.ERROR]
    if errors:
        module.fail_json(msg="; ".join(errors), findings=said)
    try:
        desired = apply.desired_from(model, params["persistent"])
        observed = look(desired)
        plan = apply.make_plan(desired, observed)
        if plan.problems:
            module.fail_json(msg="; ".join(plan.problems), findings=said)
        done = [f"{command} {unit}" for command, unit in planned(plan)]
        if not module.check_mode and (plan.changed or plan.manifest != observed.manifest):
            done = Worker(module, plan, observed).run()
    except HostError as error:
        module.fail_json(msg=str(error), findings=said)
    result: dict[str, t.Any] = {
        "changed": plan.changed,
        "files_changed": plan.paths,
        "users_added": [user.name for user in plan.users],
        "units": done,
        "findings": said,
    }
    if module._diff:
        result["diff"] = differences(plan, observed)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
