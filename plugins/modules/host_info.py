#!/usr/bin/python

# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: Read what a cluster has to know about a host
version_added: 1.0.0
description:
  - Returns in one fast call what preflight checks and the roles of this collection need, and nothing else.
  - Nothing is changed on the host.
author:
  - flotilla.cluster contributors (@flotilla-cluster)
extends_documentation_fragment:
  - flotilla.cluster._attributes
  - flotilla.cluster._attributes.info_module
options:
  packages:
    description: Names of Debian packages whose installed versions to return; V(*) stands for all that are installed.
    type: list
    elements: str
    default: []
  ports:
    description: Whether to return the ports that somebody listens on.
    type: bool
    default: true
  look_at:
    description: Paths to look at, by names of your choice.
    type: dict
    default: {}
  seals:
    description: Notes of M(flotilla.cluster.pki_request) to compare with their files, by names of your choice.
    type: dict
    default: {}
  asked_at:
    description: The controller's clock when it asks, in seconds since the epoch. It is returned, to compare clocks.
    type: float
notes:
  - Needs nothing but Python's standard library on the host. Run it as root, else it cannot tell who listens on a port.
seealso:
  - module: flotilla.cluster.host_service
"""

EXAMPLES = r"""
---
- name: Look at the host
  flotilla.cluster.host_info:
    packages: [docker.io, etcd-server]
  register: machine

- name: Show who listens
  ansible.builtin.debug:
    msg: "{{ machine.host.listening | map(attribute='port') | unique | sort }}"
"""

RETURN = r"""
host:
  description: The host.
  returned: success
  type: dict
  contains:
    os:
      description: Operating system, from os-release.
      type: dict
      contains:
        id:
          description: For example V(debian).
          type: str
        version_id:
          description: For example V(12); empty for a release without number.
          type: str
        codename:
          description: For example V(bookworm); can be empty.
          type: str
        pretty_name:
          description: Name for people.
          type: str
    arch:
      description: Architecture as the kernel names it, for example V(x86_64) or V(aarch64).
      type: str
    python:
      description: Version of the Python that runs modules.
      type: str
    machine_id:
      description: Content of C(/etc/machine-id); can be empty.
      type: str
    boot_id:
      description: Identity of this boot.
      type: str
    hostname:
      description: Name of the host as the kernel has it.
      type: str
    time:
      description: The host's clock at the end of the call, in seconds since the epoch.
      type: float
    ntp_synchronized:
      description: Whether the clock is synchronized; V(none) where that cannot be asked, as in most containers.
      type: bool
    addresses:
      description: All IPv4 and IPv6 addresses but loopback ones.
      type: list
      elements: str
    default_address:
      description: The address used towards other networks, IPv4 when there is one; empty without a default route.
      type: str
    interfaces:
      description: Names of interfaces and their addresses.
      type: dict
    networks:
      description: Networks that the host reaches in other ways than by its default route.
      type: list
      elements: dict
      sample: [{interface: eth0, network: 192.0.2.0/24}]
      contains:
        interface:
          description: Name of the interface.
          type: str
        network:
          description: The network, as its address and the length of its prefix.
          type: str
    client_address:
      description: Where the ssh connection comes from that runs this module; empty for other connections.
      type: str
    listening:
      description: Ports that somebody listens on, sorted by protocol and port.
      returned: when O(ports=true)
      type: list
      elements: dict
      contains:
        proto:
          description: V(tcp) or V(udp).
          type: str
        address:
          description: Local address; V(0.0.0.0) or V(::) for all.
          type: str
        port:
          description: Local port.
          type: int
        pid:
          description: Process that holds the port; V(0) when it cannot be seen.
          type: int
        process:
          description: Name of that process.
          type: str
        unit:
          description: The systemd unit it belongs to; empty when there is none.
          type: str
    packages:
      description: Installed versions of O(packages); those that are not installed are left out.
      type: dict
    paths:
      description: What is at the paths of O(look_at), by the same names.
      type: dict
      sample:
        etcd_data:
          kind: directory
          text: ''
          target: ''
    seals:
      description: The notes of O(seals), by the same names.
      type: dict
      sample:
        pki:
          wish: 3f1c
          until: 1798761600.0
          intact: true
    virtualization:
      description: What C(systemd-detect-virt) says; V(none) on bare metal.
      type: str
    users:
      description: Names of local users.
      type: list
      elements: str
    groups:
      description: Names of local groups.
      type: list
      elements: str
    init:
      description: V(systemd) when the host was booted with it, else the name of process 1.
      type: str
    memory_mb:
      description: Memory in MiB.
      type: int
    cpus:
      description: Number of processors.
      type: int
    apt_cache_age:
      description: Seconds since the package lists were updated; V(none) when there are none.
      type: int
    asked_at:
      description: The value of the option O(asked_at).
      type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.flotilla.cluster.plugins.module_utils._host_facts import read_host


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "ports": {"type": "bool", "default": True},
            "look_at": {"type": "dict", "default": {}},
            "seals": {"type": "dict", "default": {}},
            "asked_at": {"type": "float"},
        },
        supports_check_mode=True,
    )
    asked_at = module.params.pop("asked_at")
    try:
        host = read_host(**module.params)
    except ValueError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, host={**host, "asked_at": asked_at})


if __name__ == "__main__":
    main()
