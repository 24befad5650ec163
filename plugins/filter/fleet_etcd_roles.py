# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: fleet_etcd_roles
short_description: What each part of a fleet may do with etcd
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns the roles that M(flotilla.cluster.etcd_auth) takes. Every part reads all keys of the fleet. A machine writes
    its own presence, its units' states, what it announces and its answers; the engine writes what is placed where; the
    API writes what users want.
options:
  _input:
    description: Ids of the machines.
    type: list
    elements: str
    required: true
  prefix:
    description: Prefix of the fleet's keys.
    type: str
    default: /_coreos.com/fleet/
"""

EXAMPLES = r"""
---
- name: Show the roles
  ansible.builtin.debug:
    msg: "{{ ['4f1c0a5d9b1e4d0f8a2b3c4d5e6f7a8b'] | flotilla.cluster.fleet_etcd_roles }}"
"""

RETURN = r"""
_value:
  description: Roles with their permissions. Those of machines are C(fleet-machine-<id>), the others C(fleet-engine) and
    C(fleet-api).
  type: list
  elements: dict
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_users import key_prefix, machine_role

# The keys are those of docs/design.md. Kinds that end with a slash stand for all keys below them.
ENGINE = ("leader", "target/", "assign/", "move/")
API = ("unit/", "metadata/", "drain/", "move/", "ask/", "answer/")
MACHINE = ("presence/{id}", "state/{id}/", "announce/{id}/", "ask/{id}/", "answer/{id}/")


def role(name: str, prefix: str, writes: t.Iterable[str]) -> dict[str, t.Any]:
    """A role that reads all of the fleet and writes these keys."""
    reads = {"access": "read", "key": prefix, "prefix": True}
    return {
        "name": name,
        "permissions": [
            reads,
            *({"access": "write", "key": prefix + key, "prefix": key.endswith("/")} for key in writes),
        ],
    }


def fleet_etcd_roles(machines: t.Iterable[str], prefix: str = "/_coreos.com/fleet/") -> list[dict[str, t.Any]]:
    """Return what RETURN describes."""
    normal = key_prefix(prefix)
    return [
        role("fleet-engine", normal, ENGINE),
        role("fleet-api", normal, API),
        *(
            role(machine_role(machine), normal, (key.format(id=machine) for key in MACHINE))
            for machine in sorted(machines)
        ),
    ]


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"fleet_etcd_roles": fleet_etcd_roles}
