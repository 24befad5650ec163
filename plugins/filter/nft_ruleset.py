# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: nft_ruleset
short_description: Rules that keep ports for those who are named
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns a file for C(nft) with one table of its own, C(inet flotilla). Loading it replaces that table in one step
    and touches no other, so docker, which rewrites its own tables, and other firewalls do not meet it.
  - Connections to the ports from any other address are refused, all other traffic is left to other tables.
options:
  _input:
    description: Addresses and networks that may reach the ports.
    type: list
    elements: str
    required: true
  ports:
    description: TCP ports.
    type: list
    elements: int
    required: true
"""

EXAMPLES = r"""
---
- name: Show the rules
  ansible.builtin.debug:
    msg: "{{ ['192.0.2.0/24', '2001:db8::7'] | flotilla.cluster.nft_ruleset(ports=[2379, 2380]) }}"
"""

RETURN = r"""
_value:
  description: The file.
  type: str
"""

import ipaddress
import typing as t

from ansible.errors import AnsibleFilterError

HEAD = """# Written by role flotilla.cluster.firewall; changes are lost.
# The first two lines make the third possible whether the table is there or not: all of it is one transaction.
table inet flotilla
delete table inet flotilla
table inet flotilla {
"""
TAIL = """    chain input {
        type filter hook input priority filter - 10; policy accept;
        iif "lo" accept
        tcp dport { %s } goto guarded
    }

    chain guarded {
%s        counter reject with tcp reset
    }
}
"""


def networks(allowed: t.Iterable[t.Any]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Networks in order, without those that lie in another one. Raises AnsibleFilterError for what is none."""
    found = []
    for text in allowed:
        try:
            found.append(ipaddress.ip_network(str(text)))
        except ValueError as error:
            raise AnsibleFilterError(
                f"nft_ruleset: {text!r} is neither an address nor a network ({error}): give one such as 192.0.2.7 or"
                " 192.0.2.0/24"
            ) from None
    by_version: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    by_version += ipaddress.collapse_addresses([one for one in found if isinstance(one, ipaddress.IPv4Network)])
    by_version += ipaddress.collapse_addresses([one for one in found if isinstance(one, ipaddress.IPv6Network)])
    return by_version


def _short(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


def nft_ruleset(allowed: t.Iterable[t.Any], ports: t.Iterable[t.Any]) -> str:
    """Return what RETURN describes. Raises AnsibleFilterError for what is no address and no port."""
    numbers = sorted({int(port) for port in ports})
    if not numbers or not all(0 < number < 65536 for number in numbers):
        raise AnsibleFilterError(f"nft_ruleset: the ports are {numbers}: give some, each from 1 to 65535")
    sets, rules = "", ""
    found = networks(allowed)
    for version, name, kind, family in ((4, "allowed4", "ipv4_addr", "ip"), (6, "allowed6", "ipv6_addr", "ip6")):
        elements = [_short(network) for network in found if network.version == version]
        if elements:
            lines = ",\n            ".join(elements)
            sets += f"    set {name} {{\n        type {kind}\n        flags interval\n        elements = {{\n"
            sets += f"            {lines}\n        }}\n    }}\n\n"
            rules += f"        {family} saddr @{name} accept\n"
    return HEAD + sets + TAIL % (", ".join(map(str, numbers)), rules)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"nft_ruleset": nft_ruleset}
