#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_user
short_description: One user of etcd, its password and its roles
version_added: 1.0.0
description:
  - Makes a user with the password and exactly the roles given, or removes it. Other users are left alone.
  - Whether a user has its password is found out by logging in as that user.
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
    details:
      - It shows no password.
  idempotent:
    support: partial
    details:
      - While authentication is off, etcd does not tell whether a password is right. With O(update_password=always) it
        is set then, and each run reports a change.
options:
  name:
    description:
      - Name of the user.
    type: str
    required: true
  new_password:
    description:
      - Password of the user O(name). O(password) is the one to log in with.
      - Without it a new user has none, so that only the common name of a client certificate lets it in, which etcd's
        gateway does not accept. etcd cannot give it a password later.
    type: str
  update_password:
    description:
      - Whether a user that exists gets O(new_password) if it has another one, or only a user that is made.
    type: str
    choices: [always, on_create]
    default: always
  roles:
    description:
      - Names of its roles. A role that it has beside these is taken away. Without this option they are left alone.
    type: list
    elements: str
  state:
    description:
      - Whether the user is to be there. etcd keeps C(root) while authentication is on.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: flotilla.cluster.etcd_role
  - module: flotilla.cluster.etcd_auth
"""

EXAMPLES = r"""
---
- name: Let an application in
  flotilla.cluster.etcd_user:
    username: root
    password: "{{ root_password }}"
    name: app
    new_password: "{{ app_password }}"
    roles: [app]

- name: Change the password of root, who does it
  flotilla.cluster.etcd_user:
    username: root
    password: "{{ old_root_password }}"
    name: root
    new_password: "{{ root_password }}"

- name: Remove a user
  flotilla.cluster.etcd_user:
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
  sample: [user app is new, user app gets role app]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import bring_about, parse_user
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "name": {"type": "str", "required": True},
            "new_password": {"type": "str", "no_log": True},
            "update_password": {
                "type": "str",
                "choices": ["always", "on_create"],
                "default": "always",
                "no_log": False,
            },
            "roles": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: bring_about(module, parse_user))


if __name__ == "__main__":
    main()
