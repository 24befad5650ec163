#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_kv_info
short_description: Read keys of etcd
version_added: 1.0.0
description:
  - Returns the values of keys, and of all keys that begin with a prefix.
  - One call reads any number of keys, 128 to a request, and prefixes in pages of 1000 keys.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.info_module
  - flotilla.cluster._attributes.actiongroup_etcd
  - flotilla.cluster._etcd
options:
  keys:
    description:
      - Keys to read. One that does not exist is left out of the answer.
    type: list
    elements: str
    default: []
  prefixes:
    description:
      - Reads all keys that begin with one of these.
    type: list
    elements: str
    default: []
  keys_only:
    description:
      - Returns no values, only what there is.
    type: bool
    default: false
  limit:
    description:
      - Greatest number of keys to return for each prefix, V(0) for all.
    type: int
    default: 0
notes:
  - Values may be secrets. Set C(no_log) on the task that reads them, and on those that use its result.
seealso:
  - module: flotilla.cluster.etcd_kv
"""

EXAMPLES = r"""
---
- name: Read the settings of an application
  flotilla.cluster.etcd_kv_info:
    prefixes:
      - /app/
  register: app

- name: Show where it listens
  ansible.builtin.debug:
    msg: "{{ app.data['/app/listen'] }}"
"""

RETURN = r"""
kvs:
  description: The keys that exist, in order, each once.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: The key. One that is not text stands as its base64 after C(base64:).
      returned: always
      type: str
      sample: /app/listen
    value:
      description: The value, V(null) when it is not UTF-8 text.
      returned: with O(keys_only=false)
      type: str
      sample: 0.0.0.0:8080
    value_base64:
      description: The value in base64.
      returned: with O(keys_only=false), when it is not UTF-8 text
      type: str
    create_revision:
      description: Revision of the store at which the key was created.
      returned: always
      type: int
    mod_revision:
      description: Revision of the store at which it was written last.
      returned: always
      type: int
    version:
      description: How often it was written since it was created.
      returned: always
      type: int
    lease:
      description: Id of the lease to which it is bound, V(0) when it is bound to none.
      returned: always
      type: int
data:
  description: Keys to values, of those whose value is text.
  returned: with O(keys_only=false)
  type: dict
  sample:
    /app/listen: 0.0.0.0:8080
count:
  description: Number of keys that exist, also of those that O(limit) left out.
  returned: success
  type: int
  sample: 1
revision:
  description: Revision of the store when the first key was read, V(0) when nothing was asked for.
  returned: success
  type: int
  sample: 42
"""

import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    ETCD_ARGUMENTS,
    ETCD_REQUIRED_TOGETHER,
    EtcdClient,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_kv_info import query
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def run(params: dict[str, t.Any]) -> dict[str, t.Any]:
    with closing(EtcdClient.of(params)) as client:
        return query(
            client,
            keys=params["keys"],
            prefixes=params["prefixes"],
            keys_only=params["keys_only"],
            limit=params["limit"],
        )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
            "prefixes": {"type": "list", "elements": "str", "default": []},
            "keys_only": {"type": "bool", "default": False, "no_log": False},
            "limit": {"type": "int", "default": 0},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: run(module.params))


if __name__ == "__main__":
    main()
