# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Users and roles of etcd whose machines have left the fleet: which they are, and the requests that remove them."""

from __future__ import annotations

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import Names, Step
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_users import (
    is_machine_id,
    key_prefix,
    machine_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError

if t.TYPE_CHECKING:
    from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient


#: Options of what removes users of machines that left; C(machines) are those that stay.
LEFT_ARGUMENTS: dict[str, t.Any] = {
    "machines": {"type": "list", "elements": "str"},
    "prefix": {"type": "str", "default": "/_coreos.com/fleet/"},
}


def check_machines(machines: t.Iterable[str]) -> None:
    """:raises OptionError: for what is no machine id"""
    for machine in machines:
        if not is_machine_id(machine):
            raise OptionError(f"machines has {machine!r}, which is no machine id; give 32 hexadecimal digits")


def read_left(client: EtcdClient, machines: t.Iterable[str], prefix: str, names: Names) -> Names:
    """Of these names those that fleet made for a machine that is neither named nor present.

    Machines of other fleets on the same etcd are left out: their roles are about keys that are not below C(prefix).

    :param names: who was there before this call: a machine that registers meanwhile had its user before
    """
    below = key_prefix(prefix).encode()
    presence = below + b"presence/"
    keys = client.read_prefix(presence, keys_only=True).kvs
    stay = {*machines, *(kv.key[len(presence) :].decode("utf-8", "replace") for kv in keys)}
    roles, others = _left_behind(names.roles, stay), set()
    for role in sorted(roles):
        permissions = client.call("/auth/role/get", {"role": role}).objects("perm")
        if not all(item.octets("key").startswith(below) for item in permissions):
            others.add(role)
    return Names(roles - others, _left_behind(names.users, stay) - others)


def _left_behind(names: t.Iterable[str], stay: t.Container[str]) -> frozenset[str]:
    return frozenset(name for name in names if machine_of(name) is not None and machine_of(name) not in stay)


def leave_plan(gone: Names) -> tuple[list[Step], list[str]]:
    """The requests, and whose user or role they remove; users go first, as a user without role can do nothing."""
    steps = [Step("/user/delete", {"name": name}, f"user {name} is removed") for name in sorted(gone.users)]
    steps += [Step("/role/delete", {"role": name}, f"role {name} is removed") for name in sorted(gone.roles)]
    return steps, sorted({str(machine_of(name)) for name in gone.users | gone.roles})
