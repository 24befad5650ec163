# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Users and roles of etcd: what is to be done, carried out on a model of etcd's own rules."""

from __future__ import annotations

import base64

import pytest

pytest.importorskip("requests")
pytest.importorskip("hypothesis")

from ansible_collections.flotilla.cluster.plugins.module_utils import _etcd_auth as auth
from ansible_collections.flotilla.cluster.plugins.module_utils._http import OptionError
from hypothesis import given
from hypothesis import strategies as st

P = auth.Permission
PERMISSIONS = st.builds(
    P, st.sampled_from(["READ", "WRITE", "READWRITE"]), st.sampled_from([b"/a", b"/b"]), st.sampled_from([b"", b"/c"])
)
# one permission for a place, as a parsed option has it and as etcd keeps it
SETS = st.lists(PERMISSIONS, max_size=5).map(lambda items: frozenset({i[1:]: i for i in items}.values()))
NAMES = st.sampled_from(["x", "y", "root"])
ROLES = st.dictionaries(st.sampled_from(["x", "y"]), SETS)
USERS = st.dictionaries(NAMES, st.frozensets(st.sampled_from(["x", "root"]), max_size=2))


class Model:
    """What etcd does with the requests."""

    def __init__(self, roles, users, passwords):
        self.roles = {name: set(items) for name, items in roles.items()}
        self.users = {name: set(items) for name, items in users.items()}
        self.passwords = dict(passwords)

    def do(self, step):
        body, name = dict(step.body), step.body.get("name")
        if step.path == "/role/add":
            assert name not in self.roles
            self.roles[name] = set()
        elif step.path == "/role/delete":
            del self.roles[body["role"]]
        elif step.path == "/role/grant":
            perm = body["perm"]
            item = P(perm["permType"], base64.b64decode(perm["key"]), base64.b64decode(perm["range_end"]))
            self.roles[name] = {other for other in self.roles[name] if other[1:] != item[1:]} | {item}
        elif step.path == "/role/revoke":
            place = tuple(base64.b64decode(body[field]) for field in ("key", "range_end"))
            kept = {item for item in self.roles[body["role"]] if item[1:] != place}
            assert len(kept) == len(self.roles[body["role"]]) - 1
            self.roles[body["role"]] = kept
        elif step.path == "/user/add":
            assert name not in self.users
            self.users[name] = set()
            self.passwords[name] = body.get("password")
        elif step.path == "/user/delete":
            del self.users[name]
        elif step.path == "/user/grant":
            self.users[body["user"]].add(body["role"])
        elif step.path == "/user/revoke":
            self.users[name].remove(body["role"])
        elif step.path == "/user/changepw":
            assert self.passwords[name] != body["password"]
            self.passwords[name] = body["password"]
        else:
            raise AssertionError(step.path)

    def seen(self, wanted):
        wrong = {
            name
            for name, user in wanted.users.items()
            if user is not None and user.update and user.password and self.passwords.get(name) != user.password
        }
        return auth.Seen(
            {name: frozenset(items) for name, items in self.roles.items()},
            {name: frozenset(self.users[name]) for name in self.users if name in wanted.users},
            False,
            frozenset(wrong & set(self.users)),
        )


USER = st.builds(
    auth.User,
    st.none() | st.frozensets(st.sampled_from(["x", "root"]), max_size=2),
    st.none() | st.just("pw"),
    st.booleans(),
)
WANTED = st.builds(
    auth.Wanted,
    st.dictionaries(st.sampled_from(["x", "y"]), st.none() | SETS),
    st.dictionaries(NAMES, st.none() | USER),
)


@given(ROLES, USERS, WANTED)
def test_one_run_brings_it_about_and_another_has_nothing_to_do(roles, users, wanted):
    model = Model(roles, users, dict.fromkeys(users, "old"))
    first = model.seen(wanted)
    told = auth.difference(wanted, first)
    for step in auth.plan(wanted, first):
        model.do(step)
    assert auth.plan(wanted, model.seen(wanted)) == []
    for name, permissions in wanted.roles.items():
        assert model.roles.get(name) == (None if permissions is None else set(permissions))
    for name, user in wanted.users.items():
        if user is None:
            assert name not in model.users
            continue
        assert model.users[name] == (set(users.get(name, ())) if user.roles is None else set(user.roles))
        expected = user.password if name not in users else "pw" if user.update and user.password else "old"
        assert model.passwords[name] == expected
    assert {name: items for name, items in model.users.items() if name not in wanted.users} == {
        name: set(items) for name, items in users.items() if name not in wanted.users
    }
    changed = auth.difference(wanted, model.seen(wanted))
    assert changed["before"]["roles"] == changed["after"]["roles"] == told["after"]["roles"]
    assert "pw" not in str(told)


@given(ROLES, USERS, WANTED)
def test_a_password_that_changes_comes_last(roles, users, wanted):
    paths = [step.path for step in auth.plan(wanted, Model(roles, users, dict.fromkeys(users, "old")).seen(wanted))]
    first = next((index for index, path in enumerate(paths) if path == "/user/changepw"), len(paths))
    assert set(paths[first:]) <= {"/user/changepw"}


def role(*permissions, name="r"):
    full = [{"access": "read", "prefix": False, "range_end": None, **item} for item in permissions]
    return auth.parse_role({"name": name, "permissions": full, "state": "present"}).roles[name]


def test_keys_prefixes_and_ranges():
    assert role({"key": "/a"}, {"key": "/b/", "prefix": True}, {"key": "/c", "range_end": "/d", "access": "write"}) == {
        P("READ", b"/a"),
        P("READ", b"/b/", b"/b0"),
        P("WRITE", b"/c", b"/d"),
    }
    assert role({"key": "", "prefix": True}) == {P("READ", b"\0", b"\0")}
    assert role({"key": "/m", "range_end": "\0"}) == {P("READ", b"/m", b"\0")}


@pytest.mark.parametrize(
    ("permissions", "words"),
    [
        ([{"key": ""}], "has an empty key; give one, or prefix=true for all keys"),
        ([{"key": "/a", "prefix": True, "range_end": "/b"}], "has prefix=true and a range_end"),
        ([{"key": "/b", "range_end": "/a"}], "ends at '/a', which does not come after its key"),
        ([{"key": "/a"}, {"key": "/a", "access": "write"}], "role r has two permissions for /a"),
    ],
)
def test_permissions_that_cannot_be(permissions, words):
    with pytest.raises(OptionError, match=words):
        role(*permissions)


def test_root_takes_no_permissions():
    with pytest.raises(OptionError, match="the role root may do everything"):
        role(name="root")


def test_what_is_told():
    wanted = auth.Wanted(
        {"r": role({"key": "/a"}, {"key": "/b", "range_end": "/d"}, {"key": "/m", "range_end": "\0"}), "gone": None},
        {"u": auth.User(None, "new secret", True), "cert": auth.User(frozenset())},
    )
    seen = auth.Seen({"gone": frozenset([P("READ", b"\0", b"\0")])}, {"u": frozenset("s")}, True, frozenset("u"))
    assert [step.what for step in auth.plan(wanted, seen)] == [
        "role gone is removed",
        "role r is new",
        "role r may READ /a",
        "role r may READ /b to /d",
        "role r may READ all keys from /m",
        "user cert is new",
        "user u gets another password",
    ]
    assert auth.difference(wanted, seen) == {
        "before": {"roles": {"gone": ["READ all keys"]}, "users": {"u": {"roles": ["s"], "password": "(hidden)"}}},
        "after": {
            "roles": {"r": ["READ /a", "READ /b to /d", "READ all keys from /m"]},
            "users": {
                "cert": {"roles": [], "password": "(none)"},
                "u": {"roles": ["s"], "password": "(hidden, another one)"},
            },
        },
    }
