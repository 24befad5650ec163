# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: fleet
short_description: The machines of a cluster, grouped by their metadata
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Asks fleet's HTTP API for the machines that are alive, from the controller.
  - Each machine is in the group C(machines), and for each of its metadata in a group such as C(fleet_disk_ssd).
  - The file that names this plugin has to end in C(fleet.yml) or C(fleet.yaml).
extends_documentation_fragment:
  - ansible.builtin.constructed
  - flotilla.cluster._fleet
options:
  plugin:
    description: Marks a file as one for this plugin.
    type: str
    required: true
    choices: [flotilla.cluster.fleet]
  name_from:
    description:
      - What hosts are called. V(id) is the machine's id, V(primary_ip) its address, anything else is a key of its
        metadata, and the id for a machine that does not have that key.
    type: str
    default: primary_ip
  machines_group:
    description: Group of all machines.
    type: str
    default: machines
  prefix:
    description: What names of groups made of metadata begin with.
    type: str
    default: fleet_
"""

EXAMPLES = r"""
---
# cluster.fleet.yml, with a tunnel to the socket of any machine: ssh -L /tmp/fleet.sock:/run/fleet.sock core-01
plugin: flotilla.cluster.fleet
endpoint: unix:///tmp/fleet.sock
name_from: hostname
compose:
  ansible_user: "'core'"
"""

import re
import typing as t
from contextlib import closing

from ansible.errors import AnsibleParserError
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet import FLEET_ARGUMENTS, Machine, fleet_client
from ansible_collections.flotilla.cluster.plugins.module_utils._http import ClusterError
from ansible_collections.flotilla.cluster.plugins.plugin_utils._inventory import ConstructedInventory


def host_name(machine: Machine, name_from: str) -> str:
    """What a machine is called."""
    if name_from == "primary_ip":
        return machine.primary_ip or machine.id
    return machine.metadata.get(name_from) or machine.id


def group_names(machine: Machine, prefix: str) -> list[str]:
    """Groups of a machine's metadata; what Ansible does not take in a name becomes an underscore."""
    return [re.sub(r"[^A-Za-z0-9_]", "_", f"{prefix}{key}_{value}") for key, value in sorted(machine.metadata.items())]


class InventoryModule(ConstructedInventory):
    """The plugin that DOCUMENTATION describes."""

    NAME = "flotilla.cluster.fleet"
    KIND = "fleet"

    def fill(self, inventory: t.Any, path: str) -> None:
        """Add the machines."""
        option: t.Any = self.get_option
        try:
            with closing(fleet_client({name: option(name) for name in FLEET_ARGUMENTS})) as client:
                machines = client.machines()
        except ClusterError as error:
            raise AnsibleParserError(str(error)) from error
        all_of_them = inventory.add_group(option("machines_group"))
        for machine in machines:
            # a machine says what its metadata are: they are data, never templates
            name = host_name(machine, option("name_from"))
            inventory.add_host(name, group=all_of_them)
            for group in group_names(machine, option("prefix")):
                inventory.add_host(name, group=inventory.add_group(group))
            inventory.set_variable(name, "ansible_host", wrap_var(machine.primary_ip))
            inventory.set_variable(name, "fleet_machine_id", wrap_var(machine.id))
            inventory.set_variable(name, "fleet_machine_metadata", wrap_var(dict(machine.metadata)))
            self.construct(inventory, name)
