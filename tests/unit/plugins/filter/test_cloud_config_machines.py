# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Descriptions of many machines, from the inventory."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.cluster.plugins.filter.cloud_config_machines import cloud_config_machines


def test_what_machines_have_in_the_inventory_and_defaults_for_the_rest():
    hostvars = {
        "a": {"ansible_host": "192.0.2.11"},
        "b": {
            "cloud_config_description": {"hostname": "other", "packages": ["jq"]},
            "cloud_config_addresses": {"public_ipv6": "2001:db8::1"},
            "cloud_config_folder": "/srv/b",
        },
        "c": {"cloud_config_address": "192.0.2.13", "cloud_config_packages": ["etcd-server"]},
        "d": {},
    }
    assert cloud_config_machines(hostvars, "abcd", "/out") == [
        {
            "name": "a",
            "config": {"hostname": "a"},
            "addresses": {"private_ipv4": "192.0.2.11", "public_ipv4": "192.0.2.11"},
            "dest": "/out/a",
        },
        {
            "name": "b",
            "config": {"hostname": "other", "packages": ["jq"]},
            "addresses": {"public_ipv6": "2001:db8::1"},
            "dest": "/srv/b",
        },
        {
            "name": "c",
            "config": {"hostname": "c", "packages": ["etcd-server"]},
            "addresses": {"private_ipv4": "192.0.2.13", "public_ipv4": "192.0.2.13"},
            "dest": "/out/c",
        },
        {
            "name": "d",
            "config": {"hostname": "d"},
            "addresses": {"private_ipv4": "", "public_ipv4": ""},
            "dest": "/out/d",
        },
    ]


def test_members_and_what_is_no_description_are_refused():
    hostvars = {"a": {"cloud_config_member": True}, "b": {}, "c": {"cloud_config_member": True}}
    with pytest.raises(AnsibleFilterError, match="cloud_config_member is true for a, c, and each member needs keys"):
        cloud_config_machines(hostvars, "abc", "/out")
    with pytest.raises(AnsibleFilterError, match="cloud_config_description of a is list; give a dictionary"):
        cloud_config_machines({"a": {"cloud_config_description": []}}, "a", "/out")
