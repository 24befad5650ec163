#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_maintenance
short_description: Compact and defragment etcd, and disarm its alarms
version_added: 1.0.0
description:
  - Does what a database that has run full needs, in the order in which it helps; old revisions are forgotten, the room
    that they leave is given back, alarms are disarmed.
  - Members are defragmented one at a time, the leader last, and only those that have enough to give back. A member
    answers nothing while it is defragmented.
  - A cluster with a member that does not answer is left alone.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.actiongroup_etcd
  - flotilla.cluster._etcd
attributes:
  check_mode:
    support: full
    details:
      - What a compaction would leave to be given back is not foreseen.
  diff_mode:
    support: none
    details:
      - There is no content that changes.
  idempotent:
    support: full
options:
  keep_revisions:
    description:
      - Forgets all but so many of the newest revisions. The present value of each key stays.
      - Watches and reads at a revision that is forgotten end with an error. Without this option none is forgotten.
    type: int
  defragment:
    description:
      - Whether to give back room that nothing uses.
    type: bool
    default: false
  unused:
    description:
      - Share of a member's database that nothing may use before it is defragmented, V(0) for any.
    type: float
    default: 0.5
  least_bytes:
    description:
      - A database smaller than this is not defragmented.
    type: int
    default: 104857600
  disarm:
    description:
      - Kinds of alarms to disarm, on each member that has raised one.
      - V(CORRUPT) says that a member's data differ from the others'. Replace that member rather than disarm it.
    type: list
    elements: str
    choices: [NOSPACE, CORRUPT]
    default: []
notes:
  - Give O(request_timeout) the time that the largest database takes, about a minute for each gibibyte.
"""

EXAMPLES = r"""
---
- name: Give back what a gigabyte of old revisions holds
  flotilla.cluster.etcd_maintenance:
    defragment: true
    request_timeout: 120
    timeout: 600

- name: Bring a cluster back that has run full
  flotilla.cluster.etcd_maintenance:
    keep_revisions: 0
    defragment: true
    unused: 0
    least_bytes: 0
    disarm: [NOSPACE]
    request_timeout: 120
    timeout: 600
"""

RETURN = r"""
compacted:
  description: Newest revision that was forgotten, V(0) when none was.
  returned: success
  type: int
  sample: 1041
defragmented:
  description: Members that were defragmented, in that order, with the sizes of their databases in bytes.
  returned: success
  type: list
  elements: dict
  sample: [{name: core-02, before: 1073741824, after: 20480}]
disarmed:
  description: Alarms that were disarmed.
  returned: success
  type: list
  elements: dict
  sample: [{name: core-02, alarm: NOSPACE}]
"""

import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import EtcdClusterClient, member_opener
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_maintenance import (
    ALARMS,
    Maintenance,
    parse_wanted,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import answer


def run(params: dict[str, t.Any], *, check: bool) -> dict[str, t.Any]:
    wanted = parse_wanted(params)
    with closing(EtcdClusterClient.of(params)) as client:
        done = Maintenance(client, member_opener(params), check=check).apply(wanted)
    return {
        "changed": done.changed,
        "compacted": done.compacted,
        "defragmented": done.defragmented,
        "disarmed": done.disarmed,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "keep_revisions": {"type": "int", "no_log": False},
            "defragment": {"type": "bool", "default": False},
            "unused": {"type": "float", "default": 0.5},
            "least_bytes": {"type": "int", "default": 104857600},
            "disarm": {"type": "list", "elements": "str", "choices": list(ALARMS), "default": []},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        supports_check_mode=True,
    )
    answer(module, lambda: run(module.params, check=module.check_mode))


if __name__ == "__main__":
    main()
