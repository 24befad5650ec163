# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Users, roles and permissions of etcd: what is wanted (C(parse_wanted), C(parse_role), C(parse_user)), what there is
(C(read)), what is to be done (C(plan), pure), and doing it (C(carry_out))."""

from __future__ import annotations

import base64
import typing as t
from contextlib import closing
from dataclasses import dataclass, field

from ansible_collections.flotilla.cluster.plugins.module_utils._etcd import (
    FAILED_PRECONDITION,
    EtcdClient,
    EtcdError,
    prefix_end,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError, printable

if t.TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

ROOT = "root"
_TYPES = {"read": "READ", "write": "WRITE", "readwrite": "READWRITE"}
# etcd's "to the end", and as a key its first one
_ZERO = b"\x00"
_HIDDEN = "(hidden)"

# The suboptions of a permission, in the modules etcd_auth and etcd_role, and of a user in etcd_auth.
_PERMISSION_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "access": {"type": "str", "choices": ["read", "write", "readwrite"], "default": "read"},
    "key": {"type": "str", "required": True, "no_log": False},
    "prefix": {"type": "bool", "default": False},
    "range_end": {"type": "str"},
}
# A role, in the same modules.
ROLE_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "permissions": {"type": "list", "elements": "dict", "default": [], "options": _PERMISSION_ARGUMENTS},
}
_USER_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "name": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
    "roles": {"type": "list", "elements": "str"},
}
# What C(parse_wanted) takes, the options of the module etcd_auth beside those of the connection.
WANTED_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "roles": {"type": "list", "elements": "dict", "default": [], "options": ROLE_ARGUMENTS},
    "users": {"type": "list", "elements": "dict", "default": [], "options": _USER_ARGUMENTS},
    "enabled": {"type": "bool", "default": True},
}


class Permission(t.NamedTuple):
    """Access (READ, WRITE or READWRITE) to one key, or to those from C(key) up to but not including C(range_end)."""

    access: str
    key: bytes
    range_end: bytes = b""


@dataclass(frozen=True)
class User:
    """A user as it is to be.

    :ivar roles: exactly these; None: whatever it has
    :ivar password: what a new user gets; None: none, so that only a client certificate lets it in
    :ivar update: whether one that exists gets the password, too, if it has another
    """

    roles: frozenset[str] | None
    password: str | None = field(default=None, repr=False)
    update: bool = False


@dataclass(frozen=True)
class Wanted:
    """Roles with exactly these permissions, and users; None: not to be there. Others are left alone.

    :ivar enabled: whether authentication is to be on; None: as it is
    """

    roles: t.Mapping[str, frozenset[Permission] | None] = field(default_factory=dict)
    users: t.Mapping[str, User | None] = field(default_factory=dict)
    enabled: bool | None = None


@dataclass(frozen=True)
class Seen:
    """What there is: of the users and roles asked for those that exist, and whether authentication is on.

    :ivar wrong_passwords: users that exist and do not have the password they are to get, as far as etcd tells
    """

    roles: t.Mapping[str, frozenset[Permission]]
    users: t.Mapping[str, frozenset[str]]
    enabled: bool
    wrong_passwords: frozenset[str] = frozenset()


class Names(t.NamedTuple):
    """All roles and users of an etcd."""

    roles: frozenset[str]
    users: frozenset[str]


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
    roles: dict[str, frozenset[Permission] | None] = {}
    for role in params["roles"]:
        if role["name"] in roles:
            raise OptionError(f"role {role['name']} is given twice; keep one of them")
        roles[role["name"]] = _permissions_of(role["name"], role["permissions"])
    users: dict[str, User | None] = {}
    for user in params["users"]:
        name = user["name"]
        if not name or name in users:
            raise OptionError(f"user {name!r} is given twice or has no name; correct users")
        wanted = frozenset([name] if user["roles"] is None else user["roles"])
        users[name] = User(wanted, _password_of(name, user["password"]))
    root = users.get(ROOT)
    if params["enabled"] and (root is None or ROOT not in (root.roles or ())):
        raise OptionError(
            "users has no root with the role root, without which authentication cannot be switched on; add it"
        )
    return Wanted(roles, users, params["enabled"])


def parse_role(params: t.Mapping[str, t.Any]) -> Wanted:
    """
    :param params: C(name), C(permissions) and C(state) of the module
    :raises OptionError: for a role or a permission that cannot be
    """
    name = params["name"]
    if not name:
        raise OptionError("name is empty; give the name of a role")
    if params["state"] == "absent":
        return Wanted(roles={name: None})
    return Wanted(roles={name: _permissions_of(name, params["permissions"])})


def parse_user(params: t.Mapping[str, t.Any]) -> Wanted:
    """
    :param params: C(name), C(new_password), C(update_password), C(roles) and C(state) of the module
    :raises OptionError: for a user that cannot be
    """
    name = params["name"]
    if not name:
        raise OptionError("name is empty; give the name of a user")
    if params["state"] == "absent":
        return Wanted(users={name: None})
    password = params["new_password"]
    if password is not None:
        password = _password_of(name, password)
    roles = None if params["roles"] is None else frozenset(params["roles"])
    return Wanted(users={name: User(roles, password, params["update_password"] == "always")})


def _password_of(name: str, password: str) -> str:
    if not password:
        raise OptionError(f"user {name} has an empty password; give one")
    return password


def _permissions_of(role: str, items: t.Sequence[t.Mapping[str, t.Any]]) -> frozenset[Permission]:
    if role == ROOT:
        raise OptionError("the role root may do everything, which is etcd's own rule; give another role permissions")
    found: dict[tuple[bytes, bytes], Permission] = {}
    for item in items:
        permission = _permission(role, item)
        place = (permission.key, permission.range_end)
        if place in found:
            raise OptionError(f"role {role} has two permissions for {_told(permission)}; keep one of them")
        found[place] = permission
    return frozenset(found.values())


def _permission(role: str, item: t.Mapping[str, t.Any]) -> Permission:
    key = _bytes(item["key"])
    end = b"" if item.get("range_end") is None else _bytes(item["range_end"])
    shown = f"the permission of role {role} for {printable(item['key'])!r}"
    if item["prefix"] and item.get("range_end") is not None:
        raise OptionError(f"{shown} has prefix=true and a range_end; leave one of them out")
    if not key and not item["prefix"]:
        raise OptionError(f"a permission of role {role} has an empty key; give one, or prefix=true for all keys")
    if end and end != _ZERO and end <= key:
        raise OptionError(
            f"{shown} ends at {printable(item['range_end'])!r}, which does not come after its key; give a later end"
        )
    if item["prefix"]:
        end = prefix_end(key)
    return Permission(_TYPES[item["access"]], key or _ZERO, end)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def plan(wanted: Wanted, seen: Seen) -> list[Step]:
    """The requests that bring what is there to what is wanted; what gives rights comes before who gets them.

    A new user gets its password in the request that makes it. Other passwords come last: who changes the one that it
    is logged in with is logged out.
    """
    steps: list[Step] = []
    for name, permissions in sorted(wanted.roles.items()):
        steps += _role_steps(name, permissions, seen.roles.get(name))
    for name, user in sorted(wanted.users.items()):
        steps += _user_steps(name, user, seen)
    for name, user in sorted(wanted.users.items()):
        if user is not None and name in seen.users and name in seen.wrong_passwords:
            body = {"name": name, "password": user.password}
            steps.append(Step("/user/changepw", body, f"user {name} gets another password"))
    if wanted.enabled is True and not seen.enabled:
        steps.append(Step("/enable", {}, "authentication is switched on"))
    if wanted.enabled is False and seen.enabled:
        steps.insert(0, Step("/disable", {}, "authentication is switched off"))
    return steps


def _role_steps(name: str, wanted: frozenset[Permission] | None, seen: frozenset[Permission] | None) -> list[Step]:
    if wanted is None:
        return [] if seen is None else [Step("/role/delete", {"role": name}, f"role {name} is removed")]
    steps: list[Step] = []
    if seen is None:
        steps.append(Step("/role/add", {"name": name}, f"role {name} is new"))
    have = seen or frozenset()
    places = {(item.key, item.range_end) for item in wanted}
    steps += [_revoke(name, item) for item in sorted(have) if (item.key, item.range_end) not in places]
    steps += [_grant(name, item) for item in sorted(wanted - have)]
    return steps


def _user_steps(name: str, wanted: User | None, seen: Seen) -> list[Step]:
    have = seen.users.get(name)
    if wanted is None:
        return [] if have is None else [Step("/user/delete", {"name": name}, f"user {name} is removed")]
    steps: list[Step] = []
    if have is None:
        secret = {"options": {"no_password": True}} if wanted.password is None else {"password": wanted.password}
        steps.append(Step("/user/add", {"name": name, **secret}, f"user {name} is new"))
    have = have or frozenset()
    roles = have if wanted.roles is None else wanted.roles
    if name == ROOT and ROOT in roles - have and ROOT not in seen.roles:
        steps.append(Step("/role/add", {"name": ROOT}, "role root is new"))
    steps += [
        Step("/user/revoke", {"name": name, "role": role}, f"user {name} loses role {role}")
        for role in sorted(have - roles)
    ]
    steps += [
        Step("/user/grant", {"user": name, "role": role}, f"user {name} gets role {role}")
        for role in sorted(roles - have)
    ]
    return steps


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _told(item: Permission) -> str:
    key = item.key.decode("utf-8", "replace")
    if not item.range_end:
        return key
    if item.range_end == _ZERO:
        return "all keys" if item.key == _ZERO else f"all keys from {key}"
    if item.range_end == prefix_end(item.key):
        return f"{key}*"
    return f"{key} to {item.range_end.decode('utf-8', 'replace')}"


def _grant(role: str, item: Permission) -> Step:
    permission = {"permType": item.access, "key": _b64(item.key), "range_end": _b64(item.range_end)}
    return Step("/role/grant", {"name": role, "perm": permission}, f"role {role} may {item.access} {_told(item)}")


def _revoke(role: str, item: Permission) -> Step:
    body = {"role": role, "key": _b64(item.key), "range_end": _b64(item.range_end)}
    return Step("/role/revoke", body, f"role {role} may no longer {item.access} {_told(item)}")


LogsIn = t.Callable[[str, str], "bool | None"]


def read_names(client: EtcdClient) -> Names:
    """Asks who and what there is."""
    roles = client.call("/auth/role/list", {}).texts("roles")
    users = client.call("/auth/user/list", {}).texts("users")
    return Names(frozenset(roles), frozenset(users))


def read(client: EtcdClient, wanted: Wanted, names: Names, logs_in: LogsIn | None = None) -> Seen:
    """Asks for the roles and users that matter.

    :param logs_in: tells whether a user has a password, None when etcd does not tell
    """
    roles = {
        name: _permissions(client, name) if name in wanted.roles else frozenset()
        for name in names.roles & {*wanted.roles, ROOT}
    }
    users = {
        name: frozenset(client.call("/auth/user/get", {"name": name}).texts("roles"))
        for name in names.users & {*wanted.users}
    }
    wrong = set()
    for name in users:
        user = wanted.users[name]
        asked = user.password if user is not None and user.update else None
        # what etcd does not tell is set: the caller asked for this password
        if logs_in and asked is not None and not logs_in(name, asked):
            wrong.add(name)
    return Seen(roles, users, client.is_user, frozenset(wrong))


def password_check(params: t.Mapping[str, t.Any]) -> LogsIn:
    """What tries a user's password with the parameters of C(ETCD_ARGUMENTS), None while authentication is off."""

    def logs_in(name: str, password: str) -> bool | None:
        with closing(EtcdClient.of({**params, "username": None, "password": None})) as client:
            try:
                client.call("/auth/authenticate", {"name": name, "password": password})
            except EtcdError as error:
                if error.code == FAILED_PRECONDITION:
                    return None
                if "no password user" in error.message:
                    raise OptionError(
                        f"user {name} was made without a password, and etcd cannot give it one later; remove it and"
                        " make it anew, or leave new_password out"
                    ) from None
                if "authentication failed" in error.message:
                    return False
                raise
        return True

    return logs_in


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


def difference(wanted: Wanted, seen: Seen) -> dict[str, t.Any]:
    """Before and after, of what is asked for. A password shows as hidden, and as another one if it changes."""
    before: dict[str, t.Any] = {"roles": {}, "users": {}}
    after: dict[str, t.Any] = {"roles": {}, "users": {}}
    for name, permissions in sorted(wanted.roles.items()):
        if name in seen.roles:
            before["roles"][name] = _listed(seen.roles[name])
        if permissions is not None:
            after["roles"][name] = _listed(permissions)
    for name, user in sorted(wanted.users.items()):
        if name in seen.users:
            before["users"][name] = {"roles": sorted(seen.users[name]), "password": _HIDDEN}
        if user is not None:
            roles = seen.users.get(name, frozenset()) if user.roles is None else user.roles
            password = _HIDDEN
            if name in seen.wrong_passwords:
                password = "(hidden, another one)"
            elif name not in seen.users and user.password is None:
                password = "(none)"
            after["users"][name] = {"roles": sorted(roles), "password": password}
    if wanted.enabled is not None:
        before["enabled"], after["enabled"] = seen.enabled, wanted.enabled
    return {"before": before, "after": after}


def _listed(permissions: t.Iterable[Permission]) -> list[str]:
    return sorted(f"{item.access} {_told(item)}" for item in permissions)


def bring_about(module: AnsibleModule, parse: t.Callable[[t.Mapping[str, t.Any]], Wanted]) -> dict[str, t.Any]:
    """Does what is missing, or in check mode only tells it; what a module returns."""
    wanted = parse(module.params)
    with closing(EtcdClient.of(module.params)) as client:
        seen = read(client, wanted, read_names(client), password_check(module.params))
        steps = plan(wanted, seen)
        if not module.check_mode:
            carry_out(client, steps)
    found: dict[str, t.Any] = {"changed": bool(steps), "changes": [step.what for step in steps]}
    if module._diff:
        found["diff"] = difference(wanted, seen)
    return found
