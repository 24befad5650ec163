# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rules that keep ports for those who are named."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.cluster.plugins.filter.nft_ruleset import nft_ruleset

GOLDEN = """# Written by role flotilla.cluster.firewall; changes are lost.
# The first two lines make the third possible whether the table is there or not: all of it is one transaction.
table inet flotilla
delete table inet flotilla
table inet flotilla {
    set allowed4 {
        type ipv4_addr
        flags interval
        elements = {
            192.0.2.11,
            192.0.2.13,
            198.51.100.0/24
        }
    }

    set allowed6 {
        type ipv6_addr
        flags interval
        elements = {
            2001:db8::/64
        }
    }

    chain input {
        type filter hook input priority filter - 10; policy accept;
        iif "lo" accept
        tcp dport { 2379, 2380 } goto guarded
    }

    chain guarded {
        ip saddr @allowed4 accept
        ip6 saddr @allowed6 accept
        counter reject with tcp reset
    }
}
"""


def test_the_whole_file():
    allowed = ["198.51.100.0/24", "192.0.2.13", "2001:db8::/64", "192.0.2.11", "198.51.100.7", "2001:db8::7"]
    assert nft_ruleset(allowed, [2380, 2379, 2379]) == GOLDEN
    assert nft_ruleset(reversed(allowed), ["2379", "2380"]) == GOLDEN


def test_a_family_without_addresses_has_no_set():
    rules = nft_ruleset(["192.0.2.11"], [2379])
    assert "allowed4" in rules
    assert "allowed6" not in rules
    assert "allowed" not in nft_ruleset([], [2379])


@pytest.mark.parametrize("address", ["", "192.0.2.300", "192.0.2.1/24", "host", "192.0.2.1; drop", "0.0.0.0/33"])
def test_what_is_no_address(address):
    with pytest.raises(AnsibleFilterError, match="is neither an address nor a network"):
        nft_ruleset([address], [2379])


@pytest.mark.parametrize("ports", [[], [0], [65536], [2379, -1]])
def test_what_is_no_port(ports):
    with pytest.raises(AnsibleFilterError, match="the ports are"):
        nft_ruleset([], ports)
