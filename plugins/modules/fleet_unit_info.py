#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_unit_info
short_description: Read the units of a fleet
version_added: 1.0.0
description:
  - Returns units with their content, their state, where they are, and what systemd says of them there.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.info_module
  - flotilla.cluster._attributes.actiongroup_fleet
  - flotilla.cluster._fleet
options:
  names:
    description:
      - Units to return. C(.service) is added to a name that has no suffix of a unit type.
      - One that does not exist is left out of the answer. Without this option all units are returned.
    type: list
    elements: str
  fields:
    description:
      - What to return of each unit beside its C(name). Without this option everything is returned.
      - Whoever reads hundreds of units and needs little of them saves most of the time so.
    type: list
    elements: str
    choices: [content, current_state, desired_state, hash, machine_id, options, reason, states]
seealso:
  - module: flotilla.cluster.fleet_unit
  - module: flotilla.cluster.fleet_machine_info
"""

EXAMPLES = r"""
---
- name: Read all units
  flotilla.cluster.fleet_unit_info:
  register: fleet

- name: Read what all units are meant to do, and no more
  flotilla.cluster.fleet_unit_info:
    fields: [desired_state]

- name: Name those that are not placed, and why
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.reason }}"
  loop: "{{ fleet.units | selectattr('reason') }}"
  loop_control:
    label: "{{ item.name }}"
"""

RETURN = r"""
units:
  description: The units, by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name with its suffix.
      returned: always
      type: str
      sample: web.service
    content:
      description: Text of the unit file the way fleet keeps it.
      returned: always
      type: str
    options:
      description: The same as a list of options.
      returned: always
      type: list
      elements: dict
      contains:
        section:
          description: Section.
          returned: always
          type: str
          sample: Service
        name:
          description: Name of the option.
          returned: always
          type: str
          sample: ExecStart
        value:
          description: Value.
          returned: always
          type: str
          sample: /usr/bin/sleep infinity
    desired_state:
      description: The state that fleet works towards.
      returned: always
      type: str
      sample: launched
    current_state:
      description: The state that fleet has reached. It says nothing for a global unit.
      returned: always
      type: str
      sample: launched
    machine_id:
      description: The machine on which it is placed, empty when there is none.
      returned: always
      type: str
    reason:
      description: Why it is not placed, empty when it is or when this fleetd does not tell.
      returned: always
      type: str
    hash:
      description: SHA-1 of its content, the name that fleet gives to it.
      returned: always
      type: str
    states:
      description: What the machines' systemd says of it.
      returned: always
      type: list
      elements: dict
      contains:
        machine_id:
          description: The machine that says it.
          returned: always
          type: str
        hash:
          description: The content that it has there.
          returned: always
          type: str
        load:
          description: Load state.
          returned: always
          type: str
          sample: loaded
        active:
          description: Active state.
          returned: always
          type: str
          sample: active
        sub:
          description: Sub-state.
          returned: always
          type: str
          sample: running
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import FLEET_ARGUMENTS
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_unit import FIELDS, read_units
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **FLEET_ARGUMENTS,
            "names": {"type": "list", "elements": "str"},
            "fields": {"type": "list", "elements": "str", "choices": list(FIELDS)},
        },
        supports_check_mode=True,
    )
    answer(module, lambda: {"units": read_units(module.params)})


if __name__ == "__main__":
    main()
