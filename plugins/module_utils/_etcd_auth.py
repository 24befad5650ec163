# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Users, roles and permissions of etcd: what is wanted (C(parse_wanted)), what there is (C(read)), what is to be done
(C(plan), pure), and doing it (C(carry_out))."""

from __future__ import annotations

import base64
import typing as t
from dataclasses import dataclass, field

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import EtcdClient, prefix_end
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError

ROOT = "root"
_TYPES = {"read": "READ", "write": "WRITE", "readwrite": "READWRITE"}


class Permission(t.NamedTuple):
    """Access (READ, WRITE or READWRITE) to one key, or to those from C(key) up to but not including C(range_end)."""

    access: str
    key: bytes
    range_end: bytes = b""


@dataclass(frozen=True)
class Wanted:
    """Roles with exactly these permissions; users with exactly these roles. Others are left alone."""

    roles: t.Mapping[str, frozenset[Permission]]
    users: t.Mapping[str, frozenset[str]]
    passwords: t.Mapping[str, str] = field(default_factory=dict, repr=False)
    enabled: bool = True


@dataclass(frozen=True)
class Seen:
    """What there is: of the users and roles asked for those that exist, and whether authentication is on."""

    roles: t.Mapping[str, frozenset[Permission]]
    users: t.Mapping[str, frozenset[str]]
    enabled: bool


@dataclass(frozen=True)
class Step:
    """One request, below C(/v3/auth), and what to tell of it."""

    path: str
    body: t.Mapping[str, t.Any] = field(repr=False)
    what: str = ""


def parse_wanted(params: t.Mapping[str, t.Any]) -> Wanted:
    """
    :param params: C(roles), C(users) and C(enabled) of the module
    :raises OptionError: for names that are given twice or are missing
    """
    roles: dict[str, frozenset[Permission]] = {}
    for role in params["roles"]:
        if role["name"] == ROOT:
            raise OptionError("roles has root, whose permissions are etcd's own; leave it out")
        if role["name"] in roles:
            raise OptionError(f"role {role['name']} is given twice; keep one of them")
        roles[role["name"]] = frozenset(_permission(role["name"], item) for item in role["permissions"])
    users: dict[str, frozenset[str]] = {}
    passwords: dict[str, str] = {}
    for user in params["users"]:
        name = user["name"]
        if not name or name in users:
            raise OptionError(f"user {name!r} is given twice or has no name; correct users")
        if not user["password"]:
            raise OptionError(f"user {name} has an empty password; give one")
        users[name], passwords[name] = frozenset([name] if user["roles"] is None else user["roles"]), user["password"]
    if params["enabled"] and ROOT not in users.get(ROOT, ()):
        raise OptionError(
            "users has no root with the role root, without which authentication cannot be switched on; add it"
        )
    return Wanted(roles, users, passwords, params["enabled"])


def _permission(role: str, item: t.Mapping[str, t.Any]) -> Permission:
    key = item["key"].encode("utf-8", "surrogateescape")
    if not key:
        raise OptionError(f"a permission of role {role} has an empty key; give one, or a prefix")
    return Permission(_TYPES[item["access"]], key, prefix_end(key) if item["prefix"] else b"")


def plan(wanted: Wanted, seen: Seen) -> list[Step]:
    """The requests that bring what is there to what is wanted; what gives rights comes before who gets them.

    A password is set when its user is made, in the same request.
    """
    steps: list[Step] = []
    for name, permissions in sorted(wanted.roles.items()):
        if name not in seen.roles:
            steps.append(Step("/role/add", {"name": name}, f"role {name} is new"))
        have = seen.roles.get(name, frozenset())
        places = {(item.key, item.range_end) for item in permissions}
        steps += [_revoke(name, item) for item in sorted(have) if (item.key, item.range_end) not in places]
        steps += [_grant(name, item) for item in sorted(permissions - have)]
    for name, roles in sorted(wanted.users.items()):
        if name not in seen.users:
            body = {"name": name, "password": wanted.passwords[name]}
            steps.append(Step("/user/add", body, f"user {name} is new"))
        have_roles = seen.users.get(name, frozenset())
        if name == ROOT and ROOT in roles - have_roles and ROOT not in seen.roles:
            steps.append(Step("/role/add", {"name": ROOT}, "role root is new"))
        steps += [
            Step("/user/revoke", {"name": name, "role": role}, f"user {name} loses role {role}")
            for role in sorted(have_roles - roles)
        ]
        steps += [
            Step("/user/grant", {"user": name, "role": role}, f"user {name} gets role {role}")
            for role in sorted(roles - have_roles)
        ]
    if wanted.enabled and not seen.enabled:
        steps.append(Step("/enable", {}, "authentication is switched on"))
    if not wanted.enabled and seen.enabled:
        steps.insert(0, Step("/disable", {}, "authentication is switched off"))
    return steps


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _told(item: Permission) -> str:
    key = item.key.decode("utf-8", "replace")
    return f"{key}*" if item.range_end else key


def _grant(role: str, item: Permission) -> Step:
    permission = {"permType": item.access, "key": _b64(item.key), "range_end": _b64(item.range_end)}
    return Step("/role/grant", {"name": role, "perm": permission}, f"role {role} may {item.access} {_told(item)}")


def _revoke(role: str, item: Permission) -> Step:
    body = {"role": role, "key": _b64(item.key), "range_end": _b64(item.range_end)}
    return Step("/role/revoke", body, f"role {role} may no longer {item.access} {_told(item)}")


def read(client: EtcdClient, wanted: Wanted) -> Seen:
    """Asks for the roles and users that matter."""
    names = set(client.call("/auth/role/list", {}).texts("roles"))
    present = set(client.call("/auth/user/list", {}).texts("users"))
    roles = {
        name: _permissions(client, name) if name in wanted.roles else frozenset()
        for name in names & {*wanted.roles, ROOT}
    }
    users = {
        name: frozenset(client.call("/auth/user/get", {"name": name}).texts("roles"))
        for name in present & {*wanted.users}
    }
    return Seen(roles, users, client.is_user)


def _permissions(client: EtcdClient, role: str) -> frozenset[Permission]:
    answer = client.call("/auth/role/get", {"role": role})
    return frozenset(
        Permission(item.text("permType") or "READ", item.octets("key"), item.octets("range_end"))
        for item in answer.objects("perm")
    )


def carry_out(client: EtcdClient, steps: t.Iterable[Step]) -> None:
    """Sends the requests. Whichever arrived, the next run goes on from there."""
    for step in steps:
        client.call(f"/auth{step.path}", dict(step.body), write=True)
