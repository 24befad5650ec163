# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cloud_config as a whole: its options, its directory, what it shows."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("yaml")

CONFIG = {"hostname": "core-01", "write_files": [{"path": "/etc/motd", "content": "on $private_ipv4\n"}]}
ADDRESSES = {"private_ipv4": "10.0.0.11"}
SEED = {"config": CONFIG, "addresses": ADDRESSES, "format": "cloud-init", "target": "nocloud"}


def test_a_good_document_is_only_checked(run_module):
    result = run_module("cloud_config", document="#cloud-config\nhostname: core-01\n")
    assert (result["changed"], result["findings"], result["config"]) == (False, [], {"hostname": "core-01"})


def test_a_bad_document_fails_with_lines_and_keys(run_module):
    result = run_module("cloud_config", document="#cloud-config\ncoreos:\n  update:\n    reboot-strategy: reboot\n")
    assert result["failed"]
    assert result["msg"].startswith("line 4, coreos.update.reboot_strategy: is spelled 'reboot-strategy'")
    assert result["findings"][0]["line"] == 4


def test_warnings_fail_when_asked_to(run_module):
    document = "#cloud-config\ncoreos: {fleet: {public_ip: 192.0.2.1}}\n"
    assert not run_module("cloud_config", document=document).get("failed")
    assert run_module("cloud_config", document=document, fail_on="warning")["failed"]
    assert not run_module("cloud_config", document="nothing", fail_on="never").get("failed")


def test_a_file_is_read_and_one_that_is_not_there_is_told(run_module, tmp_path):
    (tmp_path / "user-data").write_text("#cloud-config\nhostname: core-01\n")
    assert run_module("cloud_config", src=str(tmp_path / "user-data"))["findings"] == []
    assert "cannot be read: No such file" in run_module("cloud_config", src=str(tmp_path / "nothing"))["msg"]


def test_migration_returns_the_document_and_its_report(run_module):
    result = run_module(
        "cloud_config", document="#cloud-config\ncoreos: {fleet: {public-ip: $public_ipv4}}\n", migrate=True
    )
    assert result["migrated"] == "#cloud-config\ncoreos: {fleet: {public_ip: $public_ipv4}}\n"
    assert [one["rule"] for one in result["changes"]] == ["hyphenated-key"]


def test_a_document_can_be_rendered_in_another_format(run_module):
    document = "#cloud-config\nhostname: core-01\ncoreos: {update: {reboot-strategy: reboot}}\n"
    result = run_module("cloud_config", document=document, migrate=True, format="ignition", addresses={})
    assert json.loads(result["documents"]["config.ign"])["ignition"]["version"] == "3.3.0"


def test_a_seed_is_written_once(run_module, tmp_path):
    dest = tmp_path / "seed"
    first = run_module("cloud_config", dest=str(dest), **SEED, _ansible_check_mode=True, _ansible_diff=True)
    assert (first["changed"], dest.exists(), len(first["diff"])) == (True, False, 3)
    assert run_module("cloud_config", dest=str(dest), **SEED)["changed"]
    assert sorted(path.name for path in dest.iterdir()) == ["meta-data", "network-config", "user-data"]
    assert oct((dest / "user-data").stat().st_mode)[-3:] == "600"
    assert oct(dest.stat().st_mode)[-3:] == "700"
    assert not run_module("cloud_config", dest=str(dest), **SEED)["changed"]
    (dest / "user-data").chmod(0o644)
    assert run_module("cloud_config", dest=str(dest), **SEED)["files_changed"] == [str(dest / "user-data")]


def test_documents_that_are_no_longer_rendered_are_removed(run_module, tmp_path):
    run_module("cloud_config", dest=str(tmp_path), **SEED)
    (tmp_path / "own").write_text("mine")
    run_module("cloud_config", dest=str(tmp_path), **{**SEED, "format": "ignition", "target": "http"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.ign", "own"]


def test_a_config_drive_has_openstacks_layout(run_module, tmp_path):
    run_module("cloud_config", dest=str(tmp_path), **{**SEED, "target": "config-drive"})
    meta = json.loads((tmp_path / "openstack/latest/meta_data.json").read_text())
    assert meta["hostname"] == "core-01"
    assert (tmp_path / "openstack/latest/user_data").read_text().startswith("#cloud-config\n")


def test_secrets_are_written_and_not_shown(run_module, tmp_path):
    secret = {"path": "/etc/flotilla/pki/etcd.key", "content": "canary-3141592653"}
    result = run_module("cloud_config", dest=str(tmp_path), secret_files=[secret], **SEED, _ansible_diff=True)
    assert "canary-3141592653" in (tmp_path / "user-data").read_text()
    assert "canary" not in json.dumps(result)
    assert "documents" not in result


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {}, "document": ""}, "mutually exclusive"),
        ({}, "one of the following is required: config, document, src"),
        ({"config": {}, "dest": "/x"}, "missing parameter(s) required by 'dest': format"),
        ({"config": {"write_files": [{"content": "a"}]}, "format": "ignition"}, "has no path"),
        ({"config": CONFIG, "format": "ignition"}, "holds $private_ipv4, and that address is not known"),
        ({"config": CONFIG, "format": "ignition", "addresses": {"private_ipv4": ""}}, "that address is not known"),
        ({"config": {"write_files": 3}, "format": "ignition"}, "is a whole number ('3'); give a list"),
        ({"config": {}, "format": "coreos", "dest": "/tmp/x", "mode": "rw"}, "mode is 'rw'"),
        ({"config": {}, "format": "coreos", "dest": "/dev/null"}, "dest /dev/null: "),
    ],
)
def test_bad_input_is_one_sentence(run_module, options, words):
    result = run_module("cloud_config", **options)
    assert words in result["msg"]
    assert "Traceback" not in json.dumps(result)


def many(folder, **addresses):
    """Two machines, the second of which has no address of its own but when it is given one."""
    own = [ADDRESSES, addresses]
    return [
        {
            "name": f"core-0{number}",
            "config": CONFIG,
            "addresses": own[number - 1],
            "dest": str(folder / f"core-0{number}"),
        }
        for number in (1, 2)
    ]


def test_many_machines_are_rendered_in_one_call(run_module, tmp_path):
    options = {"machines": many(tmp_path, private_ipv4="10.0.0.12"), "format": "cloud-init", "target": "nocloud"}
    first = run_module("cloud_config", **options, _ansible_check_mode=True, _ansible_diff=True)
    assert (first["changed"], len(first["diff"]), list(tmp_path.iterdir())) == (True, 6, [])
    assert first["diff"][3]["after_header"] == "core-02: user-data"
    result = run_module("cloud_config", **options)
    assert [one["changed"] for one in result["machines"].values()] == [True, True]
    assert "on 10.0.0.11" in (tmp_path / "core-01/user-data").read_text()
    assert "on 10.0.0.12" in (tmp_path / "core-02/user-data").read_text()
    # as one by one
    alone = run_module("cloud_config", **SEED, dest=str(tmp_path / "core-01"))
    assert (alone["changed"], alone["digest"]) == (False, result["machines"]["core-01"]["digest"])
    (tmp_path / "core-02/meta-data").unlink()
    again = run_module("cloud_config", **options)
    assert again["files_changed"] == [str(tmp_path / "core-02/meta-data")]
    assert [one["changed"] for one in again["machines"].values()] == [False, True]


def test_one_of_many_that_is_wrong_keeps_all_from_being_written(run_module, tmp_path):
    result = run_module("cloud_config", machines=many(tmp_path), format="cloud-init")
    assert result["failed"]
    assert result["msg"].startswith(
        "core-02: write_files[0].content: holds $private_ipv4, and that address is not known"
    )
    assert "core-01" not in result["msg"]
    assert list(tmp_path.iterdir()) == []


def test_of_very_many_faults_some_are_told(run_module, tmp_path):
    machines = [{**many(tmp_path)[1], "name": f"m{number}"} for number in range(30)]
    message = run_module("cloud_config", machines=machines, format="coreos")["msg"]
    assert message.count("[unresolved-variable]") == 20
    assert message.endswith("; and 10 more")
