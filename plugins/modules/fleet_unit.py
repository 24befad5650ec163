#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_unit
short_description: Store, start, stop and delete units of a fleet
version_added: 1.0.0
description:
  - Brings one or many units of a fleet to the content and the state asked for, and waits until they are there.
  - Nothing is sent for a unit that is as it should be. Contents are compared the way fleet keeps them, without comments
    and layout.
  - To wait costs no polling where fleetd streams its events, as this collection's does. Upstream's fleetd is asked
    twice a second.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.actiongroup_fleet
  - flotilla.cluster._fleet
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Shows each unit's text with its desired state above it.
  idempotent:
    support: full
options:
  name:
    description:
      - Name of the unit. C(.service) is added when it has no suffix of a unit type.
      - Either this or O(units) is needed.
    type: str
  content:
    description:
      - Text of the unit file. C(lookup('ansible.builtin.file', ...)) and C(lookup('ansible.builtin.template', ...))
        take it from files.
      - Without it the content that is stored stays. An instance that is not stored yet, such as C(web@1.service), takes
        that of its template C(web@.service), given in the same call or stored before.
      - A template that gets new content leaves its instances as they are.
      - Not used with O(state=absent).
    type: str
  state:
    description:
      - V(inactive) stores the unit. If it runs, it is stopped and leaves its machine.
      - V(loaded) places it on a machine without starting it. If it runs, it is stopped there.
      - V(launched) places and starts it.
      - V(absent) stops and deletes it.
      - A template can only be V(inactive) or V(absent).
    type: str
    choices: [inactive, loaded, launched, absent]
    default: launched
  units:
    description:
      - Several units, handled in this order in one call.
    type: list
    elements: dict
    suboptions:
      name:
        description: See O(name).
        type: str
        required: true
      content:
        description: See O(content).
        type: str
      state:
        description: See O(state).
        type: str
        choices: [inactive, loaded, launched, absent]
        default: launched
  wait:
    description:
      - Waits until each unit is where it should be.
      - For V(launched) systemd must call the unit active with the content asked for, too. A service with
        C(Type=oneshot) that has done its work counts as well.
      - For V(loaded) systemd must have stopped it. For V(inactive) and V(absent) no machine may report it any more.
      - A global unit must be so on every machine whose metadata fit.
      - Ends early when systemd says for some seconds that a unit has failed.
    type: bool
    default: true
  timeout:
    description:
      - Seconds to wait for all units together.
    type: float
    default: 60
seealso:
  - module: flotilla.cluster.fleet_unit_info
  - module: flotilla.cluster.fleet_machine_info
"""

EXAMPLES = r"""
---
- name: Run a web server somewhere in the cluster
  flotilla.cluster.fleet_unit:
    name: web.service
    content: |
      [Unit]
      Description=Web server

      [Service]
      ExecStartPre=-/usr/bin/docker rm --force web
      ExecStart=/usr/bin/docker run --name web --publish 8080:80 example/web
      ExecStop=/usr/bin/docker stop web

- name: Store a template and start two instances of it, each on a machine of its own
  flotilla.cluster.fleet_unit:
    units:
      - name: worker@.service
        state: inactive
        content: "{{ lookup('ansible.builtin.file', 'worker@.service') }}"
      - name: worker@1.service
      - name: worker@2.service

- name: Remove a unit
  flotilla.cluster.fleet_unit:
    name: old.service
    state: absent
"""

RETURN = r"""
units:
  description: The units asked for, in their order.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name with its suffix.
      returned: always
      type: str
      sample: web.service
    action:
      description:
        - What was done, or in check mode would be. V(none), V(created), V(replaced) (new content), V(state) (new
          desired state alone) or V(deleted).
      returned: always
      type: str
      sample: created
    desired_state:
      description: The state that fleet works towards.
      returned: always
      type: str
      sample: launched
    current_state:
      description: The state that fleet has reached, empty for a global unit.
      returned: when the unit is stored, not in check mode
      type: str
      sample: launched
    machine_id:
      description: The machine on which it is placed, empty when there is none.
      returned: when the unit is stored, not in check mode
      type: str
    reason:
      description: Why it is not placed, empty when it is or when this fleetd does not tell.
      returned: when the unit is stored, not in check mode
      type: str
    hash:
      description: SHA-1 of its content, the name that fleet gives to it.
      returned: when the unit is stored, not in check mode
      type: str
    states:
      description: What the machines' systemd says of it.
      returned: when the unit is stored, not in check mode
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

import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import FLEET_ARGUMENTS
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_unit import STATES, doubts, parse_units, run
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer

UNIT_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str"},
    "content": {"type": "str"},
    "state": {"type": "str", "choices": list(STATES), "default": "launched"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **FLEET_ARGUMENTS,
            **UNIT_ARGUMENTS,
            "units": {
                "type": "list",
                "elements": "dict",
                "options": {**UNIT_ARGUMENTS, "name": {"type": "str", "required": True}},
            },
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "float", "default": 60.0},
        },
        mutually_exclusive=[("name", "units"), ("content", "units")],
        required_one_of=[("name", "units")],
        supports_check_mode=True,
    )

    def work() -> dict[str, t.Any]:
        wanted = parse_units(module.params)
        for doubt in doubts(wanted):
            module.warn(doubt)
        return run(module.params, wanted, check=module.check_mode, diff=module._diff)

    answer(module, work)


if __name__ == "__main__":
    main()
