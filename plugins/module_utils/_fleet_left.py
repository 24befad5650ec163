# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Users and roles of etcd whose machines have left the fleet: which they are, and the requests that remove them."""

from __future__ import annotations

import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd_auth import Step
from ansible_collections.flotilla.cluster.plugins.module_utils._fleet_users import (
    is_machine_id,
    key_prefix,
    machine_of,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError

if t.TYPE_CHECKING:
    from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient


def check_machines(machines: t.Iterable[str]) -> None:
    """:raises OptionError: for what is no machine id"""
    for machine in machines:
        if not is_machine_id(machine):
            raise OptionError(f"machines has {machine!r}, which is no machine id; give 32 hexadecimal digits")


class Present(t.NamedTuple):
    """Names of all users and roles, and the ids of the machines that are present."""

    users: frozenset[str]
    roles: frozenset[str]
    present: frozenset[str]


def left_behind(names: t.Iterable[str], stay: t.Container[str]) -> dict[str, str]:
    """Of the names those that fleet made for a machine which does not stay, with the machine's id, in order."""
    found = {name: machine for name in sorted(names) if (machine := machine_of(name)) is not None}
    return {name: machine for name, machine in found.items() if machine not in stay}


def without_others(client: EtcdClient, seen: Present, stay: t.Container[str], prefix: bytes) -> Present:
    """Leaves out machines of other fleets on the same etcd, whose roles are about keys that are not below C(prefix)."""
    others = set()
    for role in left_behind(seen.roles, stay):
        permissions = client.call("/auth/role/get", {"role": role}).objects("perm")
        if not all(item.octets("key").startswith(prefix) for item in permissions):
            others.add(role)
    return seen._replace(users=seen.users - others, roles=seen.roles - others)


def leave_plan(machines: t.Iterable[str], seen: Present) -> tuple[list[Step], list[str]]:
    """The requests, and whose user or role they remove; users go first, as a user without role can do nothing."""
    stay = {*machines, *seen.present}
    users, roles = left_behind(seen.users, stay), left_behind(seen.roles, stay)
    steps = [Step("/user/delete", {"name": name}, f"user {name} is removed") for name in users]
    steps += [Step("/role/delete", {"role": name}, f"role {name} is removed") for name in roles]
    return steps, sorted({*users.values(), *roles.values()})


def read_left(client: EtcdClient, machines: t.Iterable[str], prefix: str) -> Present:
    below = key_prefix(prefix).encode()
    presence = below + b"presence/"
    users = client.call("/auth/user/list", {}).texts("users")
    roles = client.call("/auth/role/list", {}).texts("roles")
    # Presence is read last: a machine that registers meanwhile had its user before.
    keys = client.read_prefix(presence, keys_only=True).kvs
    present = frozenset(kv.key[len(presence) :].decode("utf-8", "replace") for kv in keys)
    return without_others(client, Present(frozenset(users), frozenset(roles), present), {*machines, *present}, below)
