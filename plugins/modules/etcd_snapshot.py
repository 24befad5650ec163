#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_snapshot
short_description: Save, verify and restore snapshots of etcd
version_added: 1.0.0
description:
  - Saves a snapshot through the members' own gateway, without any program of etcd. It is the follower that has got
    furthest which is asked, so that the leader is left alone. The file is there as a whole and verified, or not at all.
  - Verifies a snapshot by the SHA-256 at its end, without a cluster.
  - Restores a snapshot into the data directory of one member, with C(etcdutl) or, before etcd 3.6, C(etcdctl).
  - A snapshot holds every secret in the store. It belongs to the user who runs the module, with mode V(0600).
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
      - A snapshot that would be saved is not there to be verified. One to be restored is verified.
  diff_mode:
    support: none
    details:
      - A snapshot holds secrets.
  idempotent:
    support: partial
    details:
      - O(state=saved) saves each time. O(state=restored) does nothing when the data directory was made by this restore.
options:
  path:
    description:
      - Absolute path of the snapshot, on the host that runs the module.
    type: path
    required: true
  state:
    description:
      - V(saved) saves a snapshot and replaces one that is there.
      - V(verified) fails unless the file is a whole and undamaged snapshot.
      - V(restored) verifies it and makes O(data_dir) from it. It never overwrites the data of a member.
    type: str
    choices: [saved, verified, restored]
    default: saved
  data_dir:
    description:
      - Data directory of the member that is restored. It has to exist; the data get its owner.
    type: path
  name:
    description:
      - Name of the member that is restored.
    type: str
  initial_cluster:
    description:
      - Names of all members of the new cluster and their peer URLs.
    type: dict
  token:
    description:
      - Name of the new cluster. One that no earlier cluster had keeps members of an old one from joining it.
    type: str
  bump_revision:
    description:
      - Whether to raise the store's revision by a thousand million, so that no client that saw the old cluster takes an
        old revision for a new one, and to end watches that would miss something.
      - Debian's C(etcdctl) 3.4 and early C(etcdutl) 3.5 cannot do it.
    type: bool
    default: true
  programs:
    description:
      - Programs to restore with, by name or absolute path. The first one that can is used.
    type: list
    elements: str
    default: [etcdutl, etcdctl]
"""

EXAMPLES = r"""
---
- name: Save a snapshot
  flotilla.cluster.etcd_snapshot:
    path: /var/backups/etcd/today.snapshot

- name: Make sure that it is whole
  flotilla.cluster.etcd_snapshot:
    path: /var/backups/etcd/today.snapshot
    state: verified

- name: Make the data of a new member from it
  flotilla.cluster.etcd_snapshot:
    path: /var/backups/etcd/today.snapshot
    state: restored
    data_dir: /var/lib/etcd
    name: core-01
    initial_cluster:
      core-01: https://192.0.2.11:2380
      core-02: https://192.0.2.12:2380
      core-03: https://192.0.2.13:2380
    token: restored-2026-11-22
"""

RETURN = r"""
path:
  description: Path of the snapshot.
  returned: success
  type: str
size:
  description: Its size in bytes, V(0) when check mode saved none.
  returned: success
  type: int
  sample: 20512
sha256:
  description: SHA-256 of the whole file in hexadecimal digits, "" when check mode saved none.
  returned: success
  type: str
member:
  description: URL of the member that was asked.
  returned: with O(state=saved)
  type: str
  sample: https://192.0.2.12:2379
revision:
  description: Revision of the store, from before the snapshot was taken. It holds at least that.
  returned: with O(state=saved)
  type: int
  sample: 1042
version:
  description: Version of that member's etcd. Restore with the programs of this version or of the next minor one.
  returned: with O(state=saved)
  type: str
  sample: 3.6.14
"""

import typing as t
from contextlib import closing

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import ETCD_ARGUMENTS, ETCD_REQUIRED_TOGETHER
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_cluster import EtcdClusterClient, member_opener
from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_snapshot import (
    Snapshot,
    choose,
    is_restored,
    parse_restore,
    restore,
    save,
    verify,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError, answer


def _shown(found: Snapshot, changed: bool) -> dict[str, t.Any]:
    return {"changed": changed, "path": found.path, "size": found.size, "sha256": found.sha256}


def saved(params: dict[str, t.Any], check: bool) -> dict[str, t.Any]:
    open_member = member_opener(params)
    with closing(EtcdClusterClient.of(params)) as client:
        urls, status = choose(client, open_member)
    found = Snapshot(params["path"], 0, "")
    if not check:
        with closing(open_member(urls)) as source:
            found = save(source, params["path"])
    more = {"member": urls[0], "revision": status.revision, "version": status.version}
    return {**_shown(found, True), **more}


def run(module: AnsibleModule) -> dict[str, t.Any]:
    params = module.params
    if not params["path"].startswith("/"):
        raise OptionError(f"path is {params['path']!r}; give an absolute path")
    if params["state"] == "saved":
        return saved(params, module.check_mode)
    found = verify(params["path"])
    if params["state"] == "verified":
        return _shown(found, False)
    wanted = parse_restore(params)
    if is_restored(wanted, found):
        return _shown(found, False)
    if not module.check_mode:
        restore(wanted, found, lambda command: module.run_command(command, environ_update={"ETCDCTL_API": "3"}))
    return _shown(found, True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ETCD_ARGUMENTS,
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["saved", "verified", "restored"], "default": "saved"},
            "data_dir": {"type": "path"},
            "name": {"type": "str"},
            "initial_cluster": {"type": "dict"},
            "token": {"type": "str", "no_log": False},
            "bump_revision": {"type": "bool", "default": True},
            "programs": {"type": "list", "elements": "str", "default": ["etcdutl", "etcdctl"]},
        },
        required_together=ETCD_REQUIRED_TOGETHER,
        required_if=[("state", "restored", ("data_dir", "name", "initial_cluster", "token"))],
        supports_check_mode=True,
    )
    answer(module, lambda: run(module))


if __name__ == "__main__":
    main()
