#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_machine
short_description: Drain a machine of a fleet, and set its metadata
version_added: 1.0.0
description:
  - Takes all units off a machine and waits until they run elsewhere, so that it can be switched off without loss, and
    lets it be used again. Sets metadata for units to choose by.
  - Needs this collection's fleetd. Upstream's knows no drain.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
options:
  machine:
    description:
      - Id of the machine, or the beginning of it.
      - If it is not given, the machine that the module runs on.
    type: str
  drained:
    description:
      - Whether the machine is to have no unit, and get none.
      - If it is not given, that stays as it is.
    type: bool
  metadata:
    description:
      - Metadata to set. An empty value takes a key away; keys that are not named stay.
      - It goes over what the machine's own configuration says, and stays when its fleetd restarts.
    type: dict
    default: {}
  wait:
    description: With O(drained=true), whether to wait until the machine has no unit.
    type: bool
    default: true
  timeout:
    description: Seconds that this may take.
    type: float
    default: 300
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.actiongroup_fleet
  - flotilla.cluster._fleet
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
seealso:
  - module: flotilla.cluster.fleet_machine_info
"""

EXAMPLES = r"""
---
- name: Take all units off this machine
  flotilla.cluster.fleet_machine:
    drained: true

- name: Let it be used again, and say where it stands
  flotilla.cluster.fleet_machine:
    drained: false
    metadata:
      rack: "12"
"""

RETURN = r"""
machine:
  description: The machine as it is then.
  returned: success
  type: dict
  sample:
    id: 4f1c0a5d9b1e4d0f8a2b3c4d5e6f7a8b
    primary_ip: 192.0.2.11
    metadata:
      rack: "12"
    draining: false
homeless:
  description: Units that have left the machine and found no other place, and why. Without waiting it is empty.
  returned: success
  type: dict
  sample:
    db.service: no machine has metadata disk=ssd
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import FLEET_ARGUMENTS
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_machine import carry_out
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **FLEET_ARGUMENTS,
            "machine": {"type": "str"},
            "drained": {"type": "bool"},
            "metadata": {"type": "dict", "default": {}},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 300.0},
        },
        supports_check_mode=True,
    )
    answer(module, lambda: carry_out(module.params, module.check_mode))


if __name__ == "__main__":
    main()
