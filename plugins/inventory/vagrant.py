# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: vagrant
short_description: Running machines of a Vagrantfile, as this collection's playbooks want them
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Asks C(vagrant status) which machines run and C(vagrant ssh-config) how they are reached.
  - All of them are in the group C(machines), and the first 1, 3 or 5 in the group C(etcd), so that C(site.yml) needs
    nothing else.
  - The file that names this plugin has to end in C(vagrant.yml) or C(vagrant.yaml).
  - Host keys are checked as Vagrant's own configuration says, which is not at all for machines of this computer.
extends_documentation_fragment:
  - ansible.builtin.constructed
options:
  plugin:
    description: Marks a file as one for this plugin.
    type: str
    required: true
    choices: [flotilla.cluster.vagrant]
  directory:
    description: Folder of the Vagrantfile, relative to the inventory file. The default is the file's own folder.
    type: str
    default: .
  command:
    description: The program to ask.
    type: str
    default: vagrant
  timeout:
    description: Seconds that it may take each time.
    type: int
    default: 120
  machines_group:
    description: Group of all machines.
    type: str
    default: machines
  etcd_group:
    description: Group of those that are members of etcd.
    type: str
    default: etcd
  address_prefix:
    description:
      - First three numbers of the addresses at which machines reach each other. The machine C(core-01) has the address
        that ends in 101.
      - When it is not given it is C($address_prefix) of the C(config.rb) beside the Vagrantfile, else V(192.168.56), as
        this collection's Vagrantfile has it.
      - It counts for machines that others do not reach where Vagrant does - VirtualBox leads a port of this computer to
        each, libvirt has a network of its own for Vagrant - and for no others. Give V("") for a Vagrantfile whose
        machines have no such addresses.
    type: str
"""

EXAMPLES = r"""
---
# vagrant/inventory.vagrant.yml; then: ansible-playbook -i vagrant/inventory.vagrant.yml flotilla.cluster.site
plugin: flotilla.cluster.vagrant
"""

import os
import re
import shlex
import subprocess
import typing as t

from ansible.errors import AnsibleParserError
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.flotilla.cluster.plugins.plugin_utils._inventory import ConstructedInventory

# Variables by which roles learn where a host is reached by the others.
ADDRESSES = ("bootstrap_address", "cloud_config_address", "etcd_address", "fleet_public_ip", "pki_address")
# Providers that reach machines by a way that other machines do not have.
APART = ("libvirt", "virtualbox")
# as vagrant/lib/flotilla.rb has it
ADDRESS_PREFIX = "192.168.56"


def address_prefix_of(settings: str) -> str:
    """C($address_prefix) of the text of a config.rb, as the Vagrantfile reads it."""
    found = re.findall(r"""^[ \t]*\$address_prefix[ \t]*=[ \t]*(["'])([0-9.]+)\1""", settings, re.MULTILINE)
    return found[-1][1] if found else ADDRESS_PREFIX


def running(status: str) -> list[str]:
    """Names of machines that run, from C(vagrant status --machine-readable)."""
    found = []
    for line in status.splitlines():
        fields = line.split(",")
        if len(fields) > 3 and fields[2] == "state" and fields[3] == "running":
            found.append(fields[1])
    return sorted(found)


def providers(status: str) -> dict[str, str]:
    """What runs each machine, from C(vagrant status --machine-readable)."""
    lines = [line.split(",") for line in status.splitlines()]
    return {fields[1]: fields[4] for fields in lines if fields[2:4] == ["metadata", "provider"] and len(fields) > 4}


def parse_ssh_config(text: str) -> dict[str, dict[str, str]]:
    """Settings by host, their names in small letters, from C(vagrant ssh-config)."""
    hosts: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.splitlines():
        word, _space, rest = line.strip().partition(" ")
        if word.lower() == "host":
            current = hosts.setdefault(rest.strip(), {})
        elif word and not word.startswith("#"):
            # a machine with several keys has several lines; the first one is its own
            current.setdefault(word.lower(), rest.strip().strip('"'))
    return hosts


def variables(name: str, config: t.Mapping[str, str], address_prefix: str, provider: str) -> dict[str, t.Any]:
    """Variables of a host."""
    host = config.get("hostname", "")
    found: dict[str, t.Any] = {"ansible_host": host, "ansible_become": config.get("user") != "root"}
    for option, variable in (("user", "ansible_user"), ("identityfile", "ansible_ssh_private_key_file")):
        if config.get(option):
            found[variable] = config[option]
    if config.get("port"):
        found["ansible_port"] = int(config["port"])
    kept = {"userknownhostsfile": "UserKnownHostsFile", "stricthostkeychecking": "StrictHostKeyChecking"}
    arguments = [f"-o {shlex.quote(f'{known}={config[option]}')}" for option, known in kept.items() if option in config]
    if arguments:
        found["ansible_ssh_common_args"] = " ".join([*arguments, "-o IdentitiesOnly=yes"])
    number = re.search(r"(\d+)$", name)
    if number and address_prefix and (provider in APART or host.startswith("127.")):
        found.update(dict.fromkeys(ADDRESSES, f"{address_prefix}.{100 + int(number.group(1))}"))
    return found


def members(names: t.Sequence[str]) -> list[str]:
    """The first 1, 3 or 5: an even number tolerates no more failures than one less."""
    count = min(len(names), 5)
    return list(names[: count - 1 if count and count % 2 == 0 else count])


class InventoryModule(ConstructedInventory):
    """The plugin that DOCUMENTATION describes."""

    NAME = "flotilla.cluster.vagrant"
    KIND = "vagrant"

    def fill(self, inventory: t.Any, path: str) -> None:
        """Add the machines."""
        option: t.Any = self.get_option
        folder = os.path.join(os.path.dirname(os.path.abspath(path)), option("directory"))
        status = self._ask(folder, "status", "--machine-readable")
        names, provided = running(status), providers(status)
        configs = parse_ssh_config(self._ask(folder, "ssh-config", *names)) if names else {}
        missing = [name for name in names if not configs.get(name, {}).get("hostname")]
        if missing:
            raise AnsibleParserError(f"vagrant ssh-config says nothing of {', '.join(missing)}; look at vagrant status")
        groups = {option("machines_group"): names, option("etcd_group"): members(names)}
        for group, hosts in groups.items():
            inventory.add_group(group)
            for name in hosts:
                inventory.add_host(name, group=group)
        prefix = option("address_prefix")
        if prefix is None:
            prefix = address_prefix_of(self._settings(folder))
        for name in names:
            for variable, value in variables(name, configs[name], prefix, provided.get(name, "")).items():
                inventory.set_variable(name, variable, wrap_var(value))
            self.construct(inventory, name)

    @staticmethod
    def _settings(folder: str) -> str:
        try:
            with open(os.path.join(folder, "config.rb"), encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise AnsibleParserError(
                f"{error.filename} cannot be read ({error.strerror}); give address_prefix, or make it readable"
            ) from error

    def _ask(self, folder: str, *arguments: str) -> str:
        option: t.Any = self.get_option
        program, timeout = option("command"), option("timeout")
        shown = shlex.join([program, *arguments])
        if not os.path.isfile(os.path.join(folder, "Vagrantfile")):
            raise AnsibleParserError(f"there is no Vagrantfile in {folder}; set directory to the folder that has it")
        try:
            done = subprocess.run(
                [program, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise AnsibleParserError(
                f"{program} is not installed; install Vagrant or set command to its path"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise AnsibleParserError(f"'{shown}' in {folder} did not end within {timeout} s") from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:]
            raise AnsibleParserError(f"'{shown}' in {folder} failed with exit code {done.returncode}: {said}")
        return done.stdout
