#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_machine_info
short_description: Read the machines of a fleet
version_added: 1.0.0
description:
  - Returns the machines that are present, the same as C(fleetctl list-machines) shows.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.info_module
  - flotilla.cluster._attributes.actiongroup_fleet
  - flotilla.cluster._fleet
seealso:
  - module: flotilla.cluster.fleet_machine
  - module: flotilla.cluster.fleet_unit
  - module: flotilla.cluster.fleet_unit_info
"""

EXAMPLES = r"""
---
- name: Wait until three machines have found each other
  flotilla.cluster.fleet_machine_info:
  register: fleet
  until: fleet.machines | length == 3
  retries: 10
  delay: 1
"""

RETURN = r"""
machines:
  description: The machines, by id.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The machine's id, from C(/etc/machine-id).
      returned: always
      type: str
      sample: 4f1c0a5d9b1e4d0f8a2b3c4d5e6f7a8b
    primary_ip:
      description: The address that it publishes, empty when it publishes none.
      returned: always
      type: str
      sample: 192.0.2.11
    metadata:
      description: What it says of itself for units to choose by.
      returned: always
      type: dict
      sample:
        region: north
    draining:
      description: Whether all units are taken off it and none is placed there.
      returned: always
      type: bool
      sample: false
"""

import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import (
    FLEET_ARGUMENTS,
    describe_machine,
    fleet_client,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def read_machines(params: dict[str, t.Any]) -> list[dict[str, t.Any]]:
    """Return the machines as RETURN describes them."""
    with closing(fleet_client(params)) as client:
        machines = client.machines()
    return [describe_machine(machine) for machine in machines]


def main() -> None:
    module = AnsibleModule(argument_spec=FLEET_ARGUMENTS, supports_check_mode=True)
    answer(module, lambda: {"machines": read_machines(module.params)})


if __name__ == "__main__":
    main()
