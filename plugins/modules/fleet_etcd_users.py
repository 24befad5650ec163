#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_etcd_users
short_description: Remove the users of etcd of machines that left the fleet
version_added: 1.0.0
description:
  - Removes the users and roles C(fleet-machine-<id>), as M(flotilla.cluster.etcd_auth) makes them of what the filter
    P(flotilla.cluster.fleet_etcd_roles#filter) returns, whose machine is not named and is not present in the fleet.
    No other user or role is touched.
  - From then on whoever still has the password of such a machine can do nothing with it.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.actiongroup_etcd
  - flotilla.cluster._etcd
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  machines:
    description: Ids of the machines that stay, whether they are present or not.
    type: list
    elements: str
    required: true
  prefix:
    description:
      - Prefix of the fleet's keys. A machine with a presence key below it stays, too.
      - Machines whose role is about other keys are of another fleet, and left alone.
    type: str
    default: /_coreos.com/fleet/
seealso:
  - module: flotilla.cluster.etcd_auth
"""

EXAMPLES = r"""
---
- name: Forget all machines but these
  flotilla.cluster.fleet_etcd_users:
    username: root
    password: "{{ root_password }}"
    machines:
      - 4f1c0a5d9b1e4d0f8a2b3c4d5e6f7a8b
      - 9c77b0f1d2e34a5b8c6d7e8f90a1b2c3
"""

RETURN = r"""
removed:
  description: Ids of the machines whose user or role was removed, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [0b7f3d5e8a9c4c1d9e2f3a4b5c6d7e8f]
"""

import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    ETCD_ARGUMENTS,
    ETCD_REQUIRED_TOGETHER,
    EtcdClient,
    etcd_client,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import Step, carry_out
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_users import (
    is_machine_id,
    key_prefix,
    machine_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError, answer


class Seen(t.NamedTuple):
    """Names of all users and roles, and the ids of the machines that are present."""

    users: frozenset[str]
    roles: frozenset[str]
    present: frozenset[str]


def left_behind(names: t.Iterable[str], stay: t.Container[str]) -> dict[str, str]:
    """Of the names those that fleet made for a machine which does not stay, with the machine's id, in order."""
    found = {name: machine for name in sorted(names) if (machine := machine_of(name)) is not None}
    return {name: machine for name, machine in found.items() if machine not in stay}


def without_others(client: EtcdClient, seen: Seen, stay: t.Container[str], prefix: bytes) -> Seen:
    """Leaves out machines of other fleets on the same etcd, whose roles are about keys that are not below C(prefix)."""
    others = set()
    for role in left_behind(seen.roles, stay):
        permissions = client.call("/auth/role/get", {"role": role}).objects("perm")
        if not all(item.octets("key").startswith(prefix) for item in permissions):
            others.add(role)
    return seen._replace(users=seen.users - others, roles=seen.roles - others)


def plan(machines: t.Iterable[str], seen: Seen) -> tuple[list[Step], list[str]]:
    """The requests, and whose user or role they remove; users go first, as a user without role can do nothing."""
    stay = {*machines, *seen.present}
    users, roles = left_behind(seen.users, stay), left_behind(seen.roles, stay)
    steps = [Step("/user/delete", {"name": name}, f"user {name} is removed") for name in users]
    steps += [Step("/role/delete", {"role": name}, f"role {name} is removed") for name in roles]
    return steps, sorted({*users.values(), *roles.values()})


def read(client: EtcdClient, machines: t.Iterable[str], prefix: str) -> Seen:
    below = key_prefix(prefix).encode()
    presence = below + b"presence/"
    users = client.call("/auth/user/list", {}).texts("users")
    roles = client.call("/auth/role/list", {}).texts("roles")
    # Presence is read last: a machine that registers meanwhile had its user before.
    keys = client.read_prefix(presence, keys_only=True).kvs
    present = frozenset(kv.key[len(presence) :].decode("utf-8", "replace") for kv in keys)
    return without_others(client, Seen(frozenset(users), frozenset(roles), present), {*machines, *present}, below)


def difference(steps: t.Sequence[Step]) -> dict[str, str]:
    """What C(--diff) shows: the names that go."""
    names = [step.what.rpartition(" is ")[0] for step in steps]
    return {"before": "".join(f"{name}\n" for name in names), "after": ""}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    machines = module.params["machines"]
    for machine in machines:
        if not is_machine_id(machine):
            raise OptionError(f"machines has {machine!r}, which is no machine id; give 32 hexadecimal digits")
    with closing(etcd_client(module.params)) as client:
        steps, removed = plan(machines, read(client, machines, module.params["prefix"]))
        if not module.check_mode:
            carry_out(client, steps)
    result: dict[str, t.Any] = {"changed": bool(steps), "removed": removed}
    if module._diff and steps:
        result["diff"] = difference(steps)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "machines": {"type": "list", "elements": "str", "required": True},
            "prefix": {"type": "str", "default": "/_coreos.com/fleet/"},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: run(module))


if __name__ == "__main__":
    main()
