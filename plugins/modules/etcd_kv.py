#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_kv
short_description: Write, compare and delete many keys of etcd in one call
version_added: 1.0.0
description:
  - Makes keys of etcd have the values asked for, or makes them not exist.
  - One call takes any number of keys. They are read and written in transactions of at most 128 keys and 1.4 MB,
    so that a thousand keys cost about as much as one. What fits into one transaction happens as a whole or not at all.
  - Only keys that differ are written. Each write holds only if its key still is what was read before; if someone else
    was faster, the keys are read again and the rest is decided anew.
  - After a write that got no answer, the keys are read before it is tried again.
  - With O(prune) the keys below a prefix become exactly those that are listed.
  - An entry with a condition is written only if its key is what the condition says (compare-and-swap). The conditions
    of all entries are looked at before anything is written. A key that has the wanted value already is right, whatever
    the condition, so that a second run changes nothing.
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
      - With O(sensitive=true) the diff tells which keys change, and no value.
  idempotent:
    support: full
options:
  keys:
    description:
      - Either a mapping of keys to values, or a list of entries.
      - An entry is a mapping with C(key), and with C(value), text or a whole number, or C(value_base64), any bytes in
        base64, or C(value_file), the path of a file on the host that runs the module, whose bytes are the value.
        It may have a C(state) of its own, V(present) or V(absent), which wins over O(state).
      - With C(ttl), in seconds, the key ends after that time, unless the task runs again before; it is bound to a lease
        that is granted so long. A key that has its value and such a lease already is no change, only its time starts
        anew. With C(ttl=0) a key is bound to no lease; without C(ttl) the lease of a key that has its value is left
        alone.
      - A condition is C(if_value) or C(if_value_base64), the value that the key has to have, or C(if_revision), the
        C(mod_revision) that it has to have, as M(flotilla.cluster.etcd_kv_info) returns it. C(if_revision=0) stands for
        a key that must not exist.
      - An entry with C(state=absent) has no value. With C(prefix=true) it stands for all keys that begin with C(key),
        which are deleted at one stroke.
      - With O(state=absent) the list may name keys alone.
      - Other values are refused rather than turned into text, among them booleans and numbers with a fraction.
      - They are kept out of the host's log.
    type: raw
    required: true
  state:
    description:
      - Whether the keys are to exist, for all entries that do not say it themselves.
    type: str
    choices: [present, absent]
    default: present
  prune:
    description:
      - Prefixes below which no other keys are to be. Keys that begin with one of them and that O(keys) does not name
        are deleted, each only if nobody changes it meanwhile.
      - With O(keys) empty these are all keys below it.
    type: list
    elements: str
    default: []
  on_mismatch:
    description:
      - What to do when the condition of an entry does not hold.
      - V(fail) writes nothing and fails, V(skip) leaves that key alone and writes the others.
    type: str
    choices: [fail, skip]
    default: fail
  sensitive:
    description:
      - Keeps the values out of the diff, and out of the arguments that a verbose run shows.
      - A value that comes from a variable may be shown by a loop or by a debug task all the same. Set C(no_log) on the
        task to hide everything.
    type: bool
    default: false
notes:
  - A key that is bound to a lease and gets another value is no longer bound to it, unless its entry has a C(ttl).
seealso:
  - module: flotilla.cluster.etcd_kv_info
"""

EXAMPLES = r"""
---
- name: Write the settings of an application
  flotilla.cluster.etcd_kv:
    keys:
      /app/listen: 0.0.0.0:8080
      /app/workers: 4

- name: Write a secret and drop what is no longer used
  flotilla.cluster.etcd_kv:
    endpoints:
      - https://192.0.2.11:2379
      - https://192.0.2.12:2379
      - https://192.0.2.13:2379
    sensitive: true
    keys:
      - key: /app/password
        value: "{{ app_password }}"
      - key: /app/icon
        value_base64: "{{ lookup('ansible.builtin.file', 'icon.png') | b64encode }}"
      - key: /app/old-setting
        state: absent
      - key: /old-app/
        prefix: true
        state: absent

- name: Make the flags of an application exactly these
  flotilla.cluster.etcd_kv:
    keys:
      /app/flags/dark: "on"
      /app/flags/beta: "off"
    prune: [/app/flags/]

- name: Move on from one version to the next, unless somebody else did
  flotilla.cluster.etcd_kv:
    keys:
      - {key: /app/version, value: "2.1", if_value: "2.0"}

- name: Write what a new application begins with, and leave alone what somebody has set
  flotilla.cluster.etcd_kv:
    keys:
      - {key: /app/listen, value: "0.0.0.0:8080", if_revision: 0}
      - {key: /app/logo, value_file: /usr/share/app/logo.png, if_revision: 0}
    on_mismatch: skip

- name: Say for ten minutes that this host is being worked on
  flotilla.cluster.etcd_kv:
    keys:
      - {key: "/maintenance/{{ inventory_hostname }}", value: playbook, ttl: 600}

- name: Delete some keys
  flotilla.cluster.etcd_kv:
    keys: [/app/a, /app/b]
    state: absent
"""

RETURN = r"""
created:
  description: Keys that did not exist before, in order. A key that is not text stands as its base64 after C(base64:).
  returned: success
  type: list
  elements: str
  sample: [/app/listen]
updated:
  description: Keys that had another value before.
  returned: success
  type: list
  elements: str
deleted:
  description: Keys that are gone.
  returned: success
  type: list
  elements: str
left_alone:
  description: Keys whose condition did not hold and that were left alone, with O(on_mismatch=skip).
  returned: success
  type: list
  elements: str
revision:
  description:
    - Revision of etcd's store after the last write, or if there was none when the keys were read.
    - V(0) when O(keys) is empty.
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
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_kv import (
    apply,
    results,
    wanted_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def guard_values(module: AnsibleModule) -> t.Any:
    """Takes the option out of what the module shows: whole when sensitive, else only out of the host's log.

    no_log has kept it out of the log by now. It would also blot out every text of the answer that looks like
    one of the values, or like the word "present" in an entry.
    """
    password = module.params["password"]
    module.no_log_values.intersection_update({password} if password else set())
    keys = module.params["keys"]
    if module.params["sensitive"]:
        module.params["keys"] = "hidden by sensitive=true"
    return keys


def run(module: AnsibleModule, keys: t.Any) -> dict[str, t.Any]:
    sensitive, diff = module.params["sensitive"], module._diff
    wanted, prune = wanted_of(keys, module.params["state"], module.params["prune"])
    with closing(EtcdClient.of(module.params)) as client:
        outcome = apply(
            client,
            wanted,
            check=module.check_mode,
            values=diff and not sensitive,
            prune=prune,
            skip=module.params["on_mismatch"] == "skip",
            show=not sensitive,
        )
    return results(outcome, sensitive=sensitive, diff=diff)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "keys": {"type": "raw", "required": True, "no_log": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "prune": {"type": "list", "elements": "str", "default": []},
            "on_mismatch": {"type": "str", "choices": ["fail", "skip"], "default": "fail"},
            "sensitive": {"type": "bool", "default": False},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    keys = guard_values(module)
    answer(module, lambda: run(module, keys))


if __name__ == "__main__":
    main()
