# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import json
import zlib

import pytest

pytest.importorskip("yaml")

from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.cluster.plugins.filter.cloud_config_keys import cloud_config_keys
from ansible_collections.flotilla.cluster.plugins.filter.cloud_config_services import cloud_config_services
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import TreeSpec

PROGRAM = {"app/__init__.py": "", "app/main.py": "print('hello')\n"}
SERVICE = {
    "name": "app.service",
    "sockets": ["app.socket"],
    "groups": [{"name": "app"}],
    "users": [{"name": "app", "home": "/var/lib/app"}],
    "directories": [{"path": "/var/lib/app", "owner": "app", "group": "app", "mode": "0700"}],
    "files": [
        {"path": "/etc/app.conf", "content": "a=1\n", "mode": "0640", "group": "app", "restart": False},
        {"path": "/etc/app.bin", "content_b64": "AAE="},
    ],
    "links": [{"path": "/usr/local/bin/app", "target": "/opt/app"}],
    "trees": [{"root": "/opt/app", "packed": base64.b64encode(zlib.compress(json.dumps(PROGRAM).encode())).decode()}],
    "ready": [{"type": "tcp", "port": 1}],
}


def test_a_service_becomes_files_users_and_units():
    found = cloud_config_services([SERVICE])
    assert found["groups"] == ["app"]
    assert found["users"][0]["primary_group"] == "app"
    assert found["directories"] == [{"path": "/var/lib/app", "permissions": "0700", "owner": "app:app"}]
    files = {entry["path"]: entry for entry in found["write_files"]}
    assert files["/etc/app.conf"] == {
        "path": "/etc/app.conf", "content": "a=1\n", "permissions": "0640", "owner": "root:app"
    }  # fmt: skip
    assert files["/etc/app.bin"]["encoding"] == "b64"
    # the same version as host_service would make, so that a later play finds it there
    version = TreeSpec("/opt/app", {path: text.encode() for path, text in PROGRAM.items()}).version
    assert files[f"/opt/app/{version}/app/main.py"]["content"] == "print('hello')\n"
    assert {"path": "/opt/app/current", "target": version} in found["links"]
    assert found["coreos"]["units"] == [
        {"name": "app.socket", "enable": True, "command": "start"},
        {"name": "app.service", "enable": True, "command": "start"},
    ]
    assert lint.check_data(found, addresses={}).errors == []


def test_a_stopped_service_is_not_started():
    found = cloud_config_services([{"name": "a.service", "state": "stopped", "enabled": False}])
    assert found == {"coreos": {"units": [{"name": "a.service", "enable": False}]}}
    assert cloud_config_services([]) == {}


def test_a_tree_without_files_is_told():
    with pytest.raises(AnsibleFilterError, match="has no files"):
        cloud_config_services([{"name": "a.service", "trees": [{"root": "/opt/a"}]}])


def test_keys_come_with_their_certificates_and_authorities(tmp_path):
    for name in ("ca.crt", "a.crt", "a.key"):
        (tmp_path / name).write_text(name)
    found = cloud_config_keys(
        [{"name": "a", "authority": "ca", "owner": "etcd", "group": "etcd"}], str(tmp_path), "/pki"
    )
    assert found == [
        {"path": "/pki/a.crt", "content": "a.crt", "permissions": "0644", "owner": "root:root"},
        {"path": "/pki/a.key", "content": "a.key", "permissions": "0400", "owner": "etcd:etcd"},
        {"path": "/pki/ca.crt", "content": "ca.crt", "permissions": "0644", "owner": "root:root"},
    ]
    assert cloud_config_keys([{"name": "a", "authority": "ca"}], str(tmp_path / "nothing"), "/pki") == []
