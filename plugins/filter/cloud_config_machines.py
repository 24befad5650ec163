# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cloud_config_machines
short_description: The descriptions of many machines, from the inventory
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Collects what hosts have as C(cloud_config_description), C(cloud_config_addresses), C(cloud_config_packages) and
    C(cloud_config_folder), or their defaults, in the form of O(flotilla.cluster.cloud_config#module:machines), so that
    the documents of all of them are rendered in one call.
  - Variables of a play or a role are not seen, as they are no host's; put what all have in common into the inventory.
options:
  _input:
    description: The variables of all hosts, C(hostvars).
    type: dict
    required: true
  machines:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  directory:
    description: Folder in which each machine gets a folder of its own name.
    type: path
    required: true
"""

EXAMPLES = r"""
---
- name: Render the documents of all machines in one call
  flotilla.cluster.cloud_config:
    machines: "{{ hostvars | flotilla.cluster.cloud_config_machines(groups['machines'], '/srv/seeds') }}"
    format: cloud-init
    target: nocloud
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
_value:
  description: Machines, each with C(name), C(config), C(addresses) and C(dest).
  type: list
  elements: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError


def cloud_config_machines(
    hostvars: t.Mapping[str, t.Any], machines: t.Iterable[str], directory: str
) -> list[dict[str, t.Any]]:
    """Return what RETURN describes."""
    # Ansible imports all filters of a collection for the first of them: what only this one needs waits until it runs.
    from ansible_collections.flotilla.cluster.plugins.filter.cluster_members import address_of

    found, members = [], []
    for name in machines:
        variables = hostvars[name]
        if variables.get("cloud_config_member"):
            members.append(str(name))
        config = variables.get("cloud_config_description")
        if config is not None and not isinstance(config, t.Mapping):
            raise AnsibleFilterError(
                f"cloud_config_machines: cloud_config_description of {name} is {type(config).__name__}; give a"
                " dictionary"
            )
        packages = variables.get("cloud_config_packages")
        addresses = variables.get("cloud_config_addresses")
        if addresses is None:
            # an empty value is an error where a document needs it, and none where it does not
            address = address_of(name, variables, "cloud_config_address")
            addresses = {"private_ipv4": address, "public_ipv4": address}
        found.append(
            {
                "name": str(name),
                "config": {"hostname": str(name), **({"packages": packages} if packages else {}), **(config or {})},
                "addresses": addresses,
                "dest": variables.get("cloud_config_folder") or f"{directory}/{name}",
            }
        )
    if members:
        raise AnsibleFilterError(
            f"cloud_config_machines: cloud_config_member is true for {', '.join(members)}, and each member needs keys"
            " of its own, which are made one by one: use the main entry point of role cloud_config for them"
        )
    return found


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"cloud_config_machines": cloud_config_machines}
