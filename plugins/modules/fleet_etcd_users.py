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
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import (
    Step,
    carry_out,
    read_names,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_left import (
    LEFT_ARGUMENTS,
    check_machines,
    leave_plan,
    read_left,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def difference(steps: t.Sequence[Step]) -> dict[str, str]:
    """What C(--diff) shows: the names that go."""
    names = [step.what.rpartition(" is ")[0] for step in steps]
    return {"before": "".join(f"{name}\n" for name in names), "after": ""}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    machines = module.params["machines"]
    check_machines(machines)
    with closing(EtcdClient.of(module.params)) as client:
        steps, removed = leave_plan(read_left(client, machines, module.params["prefix"], read_names(client)))
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
            **LEFT_ARGUMENTS,
            "machines": {**LEFT_ARGUMENTS["machines"], "required": True},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: run(module))


if __name__ == "__main__":
    main()
