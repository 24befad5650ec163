# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: netboot_plan
short_description: What a server needs so that machines install themselves from the network
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Makes the scripts by which machines boot from the network, what their installer is told, and what DHCP is told, of
    the variables that the machines have in the inventory. Role C(netboot) lays it down.
  - Nothing is asked of any host; equal input gives equal output.
options:
  _input:
    description: The variables of all hosts, C(hostvars).
    type: dict
    required: true
  machines:
    description: Names of the hosts that boot from the network.
    type: list
    elements: str
    required: true
  documents:
    description: Documents of their first boots, by names such as C(core-01/user-data). An empty text stands for none.
    type: dict
    required: true
  server:
    description:
      - What the machines have in common, with the keys C(url), C(directory), C(secret), C(subnet), C(address),
        C(range), C(proxy), C(arguments), C(label) and C(seed); C(kernel), C(initrd) and C(image), each a URL or a path
        on the controller, and C(kernel_sha256) and so on; and C(present), the paths that there are below the
        directory.
    type: dict
    required: true
  installer:
    description: Text of the program that the machines' initramfs runs.
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Show which machines have not installed themselves yet
  ansible.builtin.debug:
    msg: >-
      {{ (hostvars | flotilla.cluster.netboot_plan(netboot_machines, documents, server, installer)).state.waiting }}
"""

RETURN = r"""
_value:
  description: What is to be there.
  type: dict
  contains:
    problems:
      description: What is wrong, in one sentence each. When there is anything, all the rest is empty.
      type: list
      elements: str
    assets:
      description: Large files that are not there yet, with C(url), C(sha256) and C(path).
      type: list
      elements: dict
    files:
      description: Files, as M(flotilla.cluster.host_service) takes them.
      type: list
      elements: dict
    directories:
      description: Directories, as M(flotilla.cluster.host_service) takes them.
      type: list
      elements: dict
    leases:
      description: Machines with C(mac), C(address) and C(name).
      type: list
      elements: dict
    absent:
      description: Paths that earlier runs have left.
      type: list
      elements: str
    state:
      description: Names of machines, in the lists C(waiting), C(failed) and C(installed).
      type: dict
    network:
      description: The subnet's C(address) and C(mask).
      type: dict
"""

import typing as t


def netboot_plan(
    hostvars: t.Mapping[str, t.Any],
    machines: t.Sequence[str],
    documents: t.Mapping[str, str],
    server: t.Mapping[str, t.Any],
    installer: str,
) -> dict[str, t.Any]:
    """Return what RETURN describes."""
    # Ansible imports all filters of a collection for the first of them: what only this one needs waits until it runs.
    from ansible_collections.flotilla.cluster.plugins.filter.cluster_members import cluster_members
    from ansible_collections.flotilla.cluster.plugins.module_utils import _netboot as netboot

    packed = netboot.packed_installer(installer)
    lists = {key: tuple(str(one) for one in server[key]) for key in ("range", "arguments", "present")}
    common = netboot.Server(**{**server, **lists, "installer": packed["path"]})
    of: dict[str, dict[str, str]] = {host: {} for host in machines}
    for path, text in documents.items():
        host, _slash, name = path.rpartition("/")
        of[host][name] = text
    members = cluster_members(hostvars, machines, "cloud_config_address")
    read = [
        netboot.read_machine(one["host"], hostvars[one["host"]], one["address"], of[one["host"]]) for one in members
    ]
    wrong = [problem for _machine, problems in read for problem in problems]
    made = netboot.plan([machine for machine, _problems in read], common, wrong)
    if made.problems:
        return made._asdict()
    own = {
        "path": f"{common.directory}/http/{packed['path']}",
        "content_b64": packed["content_b64"],
        "group": netboot.GROUP,
        "mode": "0640",
        "restart": False,
    }
    return {**made._asdict(), "files": [own, *made.files]}


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"netboot_plan": netboot_plan}
