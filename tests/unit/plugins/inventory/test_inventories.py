# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The inventory plugins as Ansible runs them: with a program that answers for Vagrant, and a scripted fleet."""

from __future__ import annotations

import importlib
import json
import os
import stat

import pytest

pytest.importorskip("requests")

import yaml
from ansible import constants
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.doc_fragments import constructed
from ansible_collections.flotilla.cluster.plugins.doc_fragments import _fleet
from ansible_collections.flotilla.cluster.plugins.inventory import fleet, vagrant
from ansible_collections.flotilla.cluster.tests.unit.plugins.scripted_http import Exchange

STATUS = """1763848000,core-01,metadata,provider,virtualbox
1763848000,core-01,state,running
1763848000,core-01,state-human-short,running
1763848000,core-02,state,running
1763848000,core-03,state,poweroff
1763848000,core-04,state,running
1763848000,,ui,info,Current machine states: running
"""
SSH = """Host {name}
  HostName {host}
  User {user}
  Port {port}
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  PasswordAuthentication no
  IdentityFile "/home/me/my machines/.vagrant/private_key"
  IdentityFile /home/me/other
  IdentitiesOnly yes

"""
CONFIG = "".join(
    SSH.format(name=name, host=host, user="core", port=port)
    for name, host, port in (
        ("core-01", "127.0.0.1", 2222),
        ("core-02", "10.0.3.12", 22),
        ("core-04", "127.0.0.1", 2200),
    )
)


def define(plugin_class):
    """Make the options of a plugin known, which the loader of collections does elsewhere."""
    documented = importlib.import_module(plugin_class.__module__).DOCUMENTATION
    texts = [constructed.ModuleDocFragment.DOCUMENTATION, _fleet.ModuleDocFragment.DOCUMENTATION, documented]
    options = {}
    for text in texts:
        options.update({name: {"name": name, **what} for name, what in yaml.safe_load(text)["options"].items()})
    constants.config.initialize_plugin_configuration_definitions("inventory", plugin_class.NAME, options)


def read(plugin_class, path, text):
    """The inventory that a plugin makes of a file."""
    path.write_text(text)
    define(plugin_class)
    plugin = plugin_class()
    plugin._load_name = plugin.NAME
    assert plugin.verify_file(str(path))
    inventory = InventoryData()
    plugin.parse(inventory, DataLoader(), str(path))
    inventory.reconcile_inventory()
    return inventory


@pytest.fixture
def folder(tmp_path):
    """A Vagrantfile, and a program in Vagrant's place."""
    (tmp_path / "Vagrantfile").touch()
    (tmp_path / "status").write_text(STATUS)
    (tmp_path / "ssh").write_text(CONFIG)
    program = tmp_path / "vagrant"
    program.write_text('#!/bin/sh\necho "$@" >> asked\ncase $1 in status) cat status;; ssh-config) cat ssh;; esac\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def vagrant_inventory(folder, **options):
    return read(vagrant.InventoryModule, folder / "vagrant.yml", json.dumps(
        {"plugin": "flotilla.cluster.vagrant", "command": str(folder / "vagrant"), **options}
    ))  # fmt: skip


def test_running_machines_are_hosts(folder):
    inventory = vagrant_inventory(folder)
    assert sorted(inventory.hosts) == ["core-01", "core-02", "core-04"]
    assert (folder / "asked").read_text().splitlines() == [
        "status --machine-readable", "ssh-config core-01 core-02 core-04"
    ]  # fmt: skip
    assert sorted(host.name for host in inventory.groups["machines"].hosts) == ["core-01", "core-02", "core-04"]
    assert len(inventory.groups["etcd"].hosts) == 3
    first = inventory.hosts["core-01"].get_vars()
    assert (first["ansible_host"], first["ansible_port"], first["ansible_user"]) == ("127.0.0.1", 2222, "core")
    assert first["ansible_ssh_private_key_file"] == "/home/me/my machines/.vagrant/private_key"
    assert first["ansible_become"] is True
    assert "-o StrictHostKeyChecking=no" in first["ansible_ssh_common_args"]


def test_machines_behind_a_port_are_told_the_address_they_have_among_themselves(folder):
    inventory = vagrant_inventory(folder)
    assert inventory.hosts["core-01"].get_vars()["etcd_address"] == "192.168.56.101"
    assert inventory.hosts["core-04"].get_vars()["fleet_public_ip"] == "192.168.56.104"
    assert "etcd_address" not in inventory.hosts["core-02"].get_vars()


def test_machines_of_libvirt_reach_each_other_elsewhere_than_vagrant_does(folder):
    (folder / "status").write_text(STATUS + "1763848000,core-02,metadata,provider,libvirt\n")
    second = vagrant_inventory(folder).hosts["core-02"].get_vars()
    assert (second["ansible_host"], second["etcd_address"]) == ("10.0.3.12", "192.168.56.102")
    assert "etcd_address" not in vagrant_inventory(folder, address_prefix="").hosts["core-02"].get_vars()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('$address_prefix = "10.78.9"\n', "10.78.9"),
        ("  $address_prefix='10.1.2' # mine\n", "10.1.2"),
        ('#$address_prefix = "10.78.9"\n', "192.168.56"),
        ('$address_prefix = "10.1.1"\n$address_prefix = "10.1.2"\n', "10.1.2"),
        ("$num_instances = 3\n", "192.168.56"),
    ],
)
def test_addresses_are_those_of_config_rb(folder, settings, expected):
    (folder / "config.rb").write_text(settings)
    assert vagrant_inventory(folder).hosts["core-01"].get_vars()["etcd_address"] == f"{expected}.101"
    given = vagrant_inventory(folder, address_prefix="10.9.9")
    assert given.hosts["core-01"].get_vars()["etcd_address"] == "10.9.9.101"


def test_groups_and_variables_can_be_composed(folder):
    inventory = vagrant_inventory(
        folder, strict=True, compose={"port_again": "ansible_port"}, groups={"near": "ansible_port == 22"}
    )
    assert inventory.hosts["core-01"].get_vars()["port_again"] == 2222
    assert [host.name for host in inventory.groups["near"].hosts] == ["core-02"]


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)])
def test_the_members_are_an_odd_number(count, expected):
    assert len(vagrant.members([str(number) for number in range(count)])) == expected


def test_no_machine_is_an_empty_inventory(folder):
    (folder / "status").write_text("")
    assert vagrant_inventory(folder).hosts == {}


def test_what_is_wrong_is_one_sentence(folder):
    with pytest.raises(AnsibleParserError, match="there is no Vagrantfile in"):
        vagrant_inventory(folder, directory="elsewhere")
    with pytest.raises(AnsibleParserError, match="is not installed; install Vagrant"):
        vagrant_inventory(folder, command="no-such-program")
    (folder / "ssh").write_text("")
    with pytest.raises(AnsibleParserError, match="vagrant ssh-config says nothing of core-01"):
        vagrant_inventory(folder)
    (folder / "vagrant").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    with pytest.raises(AnsibleParserError, match="failed with exit code 3: broken"):
        vagrant_inventory(folder)


MACHINES = [
    {"id": "a" * 32, "primaryIP": "192.0.2.11", "metadata": {"disk": "ssd", "rack": "r-1", "hostname": "core-01"}},
    {"id": "b" * 32, "primaryIP": "192.0.2.12", "metadata": {"disk": "{{ lookup('pipe', 'id') }}"}},
]


def fleet_inventory(serve, folder, machines, **options):
    server = serve(Exchange("GET", "/fleet/v1/machines", answer={"machines": machines}))
    settings = {"plugin": "flotilla.cluster.fleet", "endpoint": server.url, **options}
    return read(fleet.InventoryModule, folder / "my.fleet.yml", json.dumps(settings))


def test_machines_of_a_fleet_are_hosts_in_groups(serve, tmp_path):
    inventory = fleet_inventory(serve, tmp_path, MACHINES)
    assert sorted(inventory.hosts) == ["192.0.2.11", "192.0.2.12"]
    assert [host.name for host in inventory.groups["fleet_disk_ssd"].hosts] == ["192.0.2.11"]
    assert "fleet_rack_r_1" in inventory.groups
    found = inventory.hosts["192.0.2.11"].get_vars()
    assert (found["ansible_host"], found["fleet_machine_id"]) == ("192.0.2.11", "a" * 32)
    assert found["fleet_machine_metadata"]["disk"] == "ssd"


def test_hosts_can_be_named_by_metadata(serve, tmp_path):
    assert sorted(fleet_inventory(serve, tmp_path, MACHINES, name_from="hostname").hosts) == ["b" * 32, "core-01"]


def test_metadata_are_never_templates(serve, tmp_path):
    inventory = fleet_inventory(
        serve, tmp_path, MACHINES, strict=True, compose={"seen": "fleet_machine_metadata.disk ~ ''"}
    )
    assert inventory.hosts["192.0.2.12"].get_vars()["seen"] == "{{ lookup('pipe', 'id') }}"


def test_a_fleet_that_does_not_answer_is_one_sentence(tmp_path):
    settings = {"plugin": "flotilla.cluster.fleet", "endpoint": f"unix://{tmp_path}/nothing.sock"}
    with pytest.raises(AnsibleParserError) as caught:
        read(fleet.InventoryModule, tmp_path / "my.fleet.yml", json.dumps(settings))
    assert os.linesep not in str(caught.value)


@pytest.mark.parametrize("name", ["vagrant.ini", "hosts.yml"])
def test_other_files_are_not_for_these_plugins(tmp_path, name):
    (tmp_path / name).touch()
    for plugin in (fleet.InventoryModule(), vagrant.InventoryModule()):
        assert not plugin.verify_file(str(tmp_path / name))
