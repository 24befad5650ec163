# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.flotilla.cluster.plugins.filter.etcd_idle import etcd_idle
from ansible_collections.flotilla.cluster.plugins.filter.etcd_origin import etcd_origin
from ansible_collections.flotilla.cluster.plugins.filter.restarts_due import restarts_due

EMPTY = {"etcd_data": {"kind": "absent", "text": ""}, "etcd_bootstrap": {"kind": "absent", "text": ""}}
STARTED = {
    "etcd_data": {"kind": "directory", "text": ""},
    "etcd_bootstrap": {
        "kind": "file",
        "text": '# note\nFLOTILLA_ETCD_BOOTSTRAP="--initial-cluster=a=https://a:2380"\n',
    },
}


def hosts(**paths):
    return {name: {"__flotilla_host": {"paths": found}} for name, found in paths.items()}


def test_what_idle_hosts_have():
    assert etcd_idle(["a", "b"], hosts(a=EMPTY, b=STARTED), ["a", "b"]) == {
        "a": {"members": [], "local": {"data": False, "bootstrap": "", "log": False}},
        "b": {
            "members": [],
            "local": {"data": True, "bootstrap": "--initial-cluster=a=https://a:2380", "log": True},
        },
    }


def test_nothing_when_a_member_may_run_or_was_not_looked_at():
    assert etcd_idle(["a", "b"], hosts(a=EMPTY, b=EMPTY), ["a"]) == {}
    assert etcd_idle(["a", "b"], {**hosts(a=EMPTY), "b": {}}, ["a", "b"]) == {}
    assert etcd_idle(["a"], hosts(a={}), ["a"]) == {}


def test_restarts_that_are_due():
    services = {"etcd.service": {"restart_pending": True}, "docker.service": {"restart_pending": False}}
    hostvars = {"a": {"__flotilla_services": {"services": services}}, "b": {}, "c": {"__flotilla_services": {}}}
    assert restarts_due(["c", "b", "a"], hostvars, "etcd.service") == ["a"]
    assert restarts_due(["a"], hostvars, "docker.service") == []


def test_where_the_members_programs_come_from():
    def seen(target="", **packages):
        return {"__flotilla_host": {"paths": {"etcd_release": {"target": target}}, "packages": packages}}

    package = {"etcd-server": "3.4.23-4+b4"}
    assert etcd_origin(["a", "b"], {"a": seen(), "b": {}}) == ""
    assert etcd_origin(["a", "b"], {"a": seen(), "b": seen(**package)}) == "distribution"
    assert etcd_origin(["a", "b"], {"a": seen(**package), "b": seen("3.6.14-ffe840ff")}) == "release"
    assert etcd_origin(["a"], {"a": seen(), "b": seen("3.6.14-ffe840ff")}) == ""
    assert etcd_origin(["a"], {"a": {"__flotilla_host": {"packages": package}}}) == "distribution"
