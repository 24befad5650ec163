#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_auth
short_description: Users, roles and permissions of an etcd cluster
version_added: 1.0.0
description:
  - Makes roles with the permissions given and users with the roles given, and switches etcd's own authentication on,
    all in one call. Roles and users that are not named are left alone.
  - What was half done by a call that was killed is finished by the next one. Authentication is switched on last.
  - With authentication on, etcd's gateway refuses client certificates that have a common name, and takes C(root), given
    as O(username), for what this module does.
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
    details:
      - It shows no password.
  idempotent:
    support: partial
    details:
      - The password of a user that exists is neither compared nor changed; M(flotilla.cluster.etcd_user) does that.
options:
  roles:
    description: Roles, each with all of its permissions.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the role.
        type: str
        required: true
      permissions:
        description: What the role may do. A permission that it has beside these is taken away.
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
              - Whether all keys that begin with O(roles[].permissions[].key) are meant. With an empty key these are all
                keys.
            type: bool
            default: false
          range_end:
            description:
              - The first key after O(roles[].permissions[].key) that is no longer meant, for a range. A single zero
                byte stands for the end of all keys.
            type: str
  users:
    description:
      - Users, each with all of its roles.
      - With O(enabled) one of them has to be C(root) with the role C(root).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Password that a user gets when it is made.
        type: str
        required: true
      roles:
        description: Names of its roles. The default is the role that is called like the user.
        type: list
        elements: str
  enabled:
    description: Whether the cluster asks for a user at all.
    type: bool
    default: true
seealso:
  - module: flotilla.cluster.etcd_role
  - module: flotilla.cluster.etcd_user
"""

EXAMPLES = r"""
---
- name: Let an application write its own keys only
  flotilla.cluster.etcd_auth:
    username: root
    password: "{{ root_password }}"
    roles:
      - name: app
        permissions:
          - {key: /app/, prefix: true, access: readwrite}
          - {key: /shared/, prefix: true}
    users:
      - {name: root, password: "{{ root_password }}"}
      - {name: app, password: "{{ app_password }}"}
"""

RETURN = r"""
changes:
  description: What was done, or in check mode would be, one sentence each.
  returned: success
  type: list
  elements: str
  sample: [role app is new, role app may READWRITE /app/*, user app is new, user app gets role app]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import (
    WANTED_ARGUMENTS,
    bring_about,
    parse_wanted,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            **WANTED_ARGUMENTS,
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: bring_about(module, parse_wanted))


if __name__ == "__main__":
    main()
