#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_role
short_description: One role of etcd and what it may do
version_added: 1.0.0
description:
  - Makes a role with exactly the permissions given, or removes it. Other roles are left alone.
  - With authentication on it takes C(root), given as O(username), to do that.
  - For many roles and users, and to switch authentication on, use M(flotilla.cluster.etcd_auth), which takes one call.
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
  name:
    description:
      - Name of the role. The role C(root) may do everything and takes no permissions.
    type: str
    required: true
  state:
    description:
      - Whether the role is to be there. One that is removed is taken from all its users.
    type: str
    choices: [present, absent]
    default: present
  permissions:
    description:
      - What the role may do. A permission that it has beside these is taken away.
    type: list
    elements: dict
    default: []
    suboptions:
      access:
        description: What may be done with the keys. V(write) includes to delete them.
        type: str
        choices: [read, write, readwrite]
        default: read
      key:
        description: The key.
        type: str
        required: true
      prefix:
        description:
          - Whether all keys that begin with O(permissions[].key) are meant. With an empty key these are all keys.
        type: bool
        default: false
      range_end:
        description:
          - The first key after O(permissions[].key) that is no longer meant, for a range. A single zero byte stands for
            the end of all keys.
        type: str
seealso:
  - module: flotilla.cluster.etcd_user
  - module: flotilla.cluster.etcd_auth
"""

EXAMPLES = r"""
---
- name: Let an application write its own keys and read those of all
  flotilla.cluster.etcd_role:
    username: root
    password: "{{ root_password }}"
    name: app
    permissions:
      - {key: /app/, prefix: true, access: readwrite}
      - {key: /shared/, prefix: true}
      - {key: /queue/a, range_end: /queue/n, access: write}

- name: Remove a role
  flotilla.cluster.etcd_role:
    username: root
    password: "{{ root_password }}"
    name: old-app
    state: absent
"""

RETURN = r"""
changes:
  description: What was done, or in check mode would be, one sentence each.
  returned: success
  type: list
  elements: str
  sample: [role app is new, role app may READWRITE /app/*]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import (
    ROLE_ARGUMENTS,
    bring_about,
    parse_role,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            **ROLE_ARGUMENTS,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: bring_about(module, parse_role))


if __name__ == "__main__":
    main()
