# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every rule for cloud-configs, and that no document whatever ends in a traceback."""

from __future__ import annotations

import base64
import gzip
import json

import pytest

pytest.importorskip("yaml")

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from hypothesis import given
from hypothesis import strategies as st

TOKEN_URL = "https://discovery.example.org/" + "0" * 32
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuVkSl8 you@example.org"
PACKED = base64.b64encode(gzip.compress(b"hello", mtime=0)).decode()


def check(text: str, **options):
    return lint.check_text(text.encode(), **options)


def rules(text: str, **options):
    return [(one.rule, one.severity, one.line, one.key) for one in check("#cloud-config\n" + text, **options).findings]


CLEAN = f"""#cloud-config
hostname: core-01
manage_etc_hosts: localhost
ssh_authorized_keys: ["{KEY}"]
users:
  - name: elroy
    groups: [docker]
    ssh_authorized_keys:
      - {KEY}
write_files:
  - path: /etc/motd
    permissions: '0644'
    owner: root:root
    content: |
      hello
  - path: /opt/bin/tool
    encoding: gz+b64
    content: {PACKED}
coreos:
  update:
    reboot_strategy: 'off'
    group: stable
  locksmith:
    window_start: Thu 04:00
    window_length: 1h30m
  oem: {{id: rackspace, name: Rackspace}}
  units:
    - name: hello.service
      command: start
      enable: true
      content: |
        # says hello
        [Service]
        ExecStart=/bin/echo
      drop_ins:
        - name: 10-more.conf
          content: "[Service]\\nNice=1"
"""


def test_a_clean_document_is_clean():
    found = check(CLEAN)
    assert found.findings == []
    assert found.data["coreos"]["update"] == {"reboot_strategy": "off", "group": "stable"}


RULES = [
    # what CoreOS's own validator found
    ("hostnam: x\n", ("unknown-key", "error", 2, "hostnam")),
    (
        "coreos:\n  units:\n    - name: a.service\n      dropins: []\n",
        ("unknown-key", "error", 5, "coreos.units[0].dropins"),
    ),
    ("coreos: []\n", ("wrong-type", "error", 2, "coreos")),
    ("write_files:\n  path: /x\n", ("wrong-type", "error", 2, "write_files")),
    ("hostname: [a]\n", ("wrong-type", "error", 2, "hostname")),
    ("ssh_authorized_keys: word\n", ("wrong-type", "error", 2, "ssh_authorized_keys")),
    ("coreos: {etcd2: {max_wals: many}}\n", ("wrong-type", "error", 2, "coreos.etcd2.max_wals")),
    ("coreos: {units: [{name: a.service, enable: 'yes'}]}\n", ("wrong-type", "error", 2, "coreos.units[0].enable")),
    ("coreos: {etcd2: {ca_file: /x}}\n", ("deprecated", "warning", 2, "coreos.etcd2.ca_file")),
    ("coreos: {etcd: {listen_peer_urls: a}}\n", ("deprecated", "warning", 2, "coreos.etcd.listen_peer_urls")),
    ("coreos: {fleet: {public_ip: 192.0.2.1}}\n", ("deprecated", "warning", 2, "coreos.fleet")),
    (
        "users: [{name: a, coreos_ssh_import_github: b}]\n",
        ("deprecated", "warning", 2, "users[0].coreos_ssh_import_github"),
    ),
    (
        "coreos: {units: [{name: a.service, command: run}]}\n",
        ("invalid-value", "error", 2, "coreos.units[0].command"),
    ),
    (
        "write_files: [{path: /x, encoding: zip, content: a}]\n",
        ("invalid-value", "error", 2, "write_files[0].encoding"),
    ),
    (
        "write_files: [{path: /x, permissions: 'rwx', content: a}]\n",
        ("invalid-value", "error", 2, "write_files[0].permissions"),
    ),
    ("coreos: {etcd2: {proxy: maybe}}\n", ("invalid-value", "error", 2, "coreos.etcd2.proxy")),
    (
        "coreos: {update: {reboot_strategy: sometimes}}\n",
        ("invalid-value", "error", 2, "coreos.update.reboot_strategy"),
    ),
    ("coreos: {locksmith: {window_start: soon}}\n", ("invalid-value", "error", 2, "coreos.locksmith.window_start")),
    (
        "coreos: {locksmith: {window_length: long}}\n",
        ("invalid-value", "error", 2, "coreos.locksmith.window_length"),
    ),
    ("manage_etc_hosts: true\n", ("invalid-value", "error", 2, "manage_etc_hosts")),
    (
        "write_files: [{path: /x, encoding: b64, content: '***'}]\n",
        ("undecodable-content", "error", 2, "write_files[0].content"),
    ),
    ("write_files: [{path: /usr/bin/x, content: a}]\n", ("path-under-usr", "error", 2, "write_files[0].path")),
    ("coreos: {write_files: []}\n", ("misplaced-key", "error", 2, "coreos.write_files")),
    ("coreos: {etcd: {discovery: 'not a url'}}\n", ("discovery-url", "error", 2, "coreos.etcd.discovery")),
    ("coreos:\n  oem: {id: a:b}\n", ("bare-colon", "error", 3, "coreos.oem.id")),
    ("users: [{name: a, groups: [b, 'c:d', e:f]}]\n", ("bare-colon", "error", 2, "users[0].groups[2]")),
    (
        "coreos: {update: {reboot_strategy: best-effort}}\n",
        ("invalid-value", "error", 2, "coreos.update.reboot_strategy"),
    ),
    # what it lacked
    ("coreos: {etcd2: {discovery: 'not a url'}}\n", ("discovery-url", "error", 2, "coreos.etcd2.discovery")),
    (
        "coreos: {etcd2: {discovery: 'https://d.example.org/<token>'}}\n",
        ("discovery-url", "error", 2, "coreos.etcd2.discovery"),
    ),
    (
        "coreos:\n  update:\n    reboot-strategy: reboot\n",
        ("hyphenated-key", "error", 4, "coreos.update.reboot_strategy"),
    ),
    (
        "coreos: {update: {reboot_strategy: off}}\n",
        ("unquoted-boolean", "error", 2, "coreos.update.reboot_strategy"),
    ),
    (
        "write_files:\n- path: /x\n  permissions: 0644\n  content: a\n",
        ("unquoted-octal", "error", 4, "write_files[0].permissions"),
    ),
    (
        "write_files:\n- path: /x\n  permissions: 420\n  content: a\n",
        ("unquoted-octal", "error", 4, "write_files[0].permissions"),
    ),
    ("hostname: a\nhostname: b\n", ("duplicate-key", "error", 3, "hostname")),
    ("coreos:\n  oem: {id: a}\n  oem: {id: b}\n", ("duplicate-key", "error", 4, "coreos.oem")),
    (
        "coreos: {units: [{name: a.service}, {name: a.service}]}\n",
        ("duplicate-unit", "error", 2, "coreos.units[1]"),
    ),
    (
        "write_files: [{path: /x, content: a}, {path: /x, content: b}]\n",
        ("duplicate-file", "error", 2, "write_files[1]"),
    ),
    ("coreos: {units: [{command: start}]}\n", ("missing-name", "error", 2, "coreos.units[0]")),
    ("coreos: {units: [{name: etcd2}]}\n", ("unit-suffix", "error", 2, "coreos.units[0].name")),
    ("coreos: {units: [{name: 'a b.service'}]}\n", ("unit-suffix", "error", 2, "coreos.units[0].name")),
    (
        "coreos: {units: [{name: a.service, content: 'ExecStart=/bin/true'}]}\n",
        ("unit-text", "error", 2, "coreos.units[0].content"),
    ),
    (
        "coreos: {units: [{name: a.service, drop_ins: [{name: x.conf}]}]}\n",
        ("missing-content", "error", 2, "coreos.units[0].drop_ins[0]"),
    ),
    (
        "coreos: {units: [{name: a.service, drop_ins: [{content: '[Unit]'}]}]}\n",
        ("missing-name", "error", 2, "coreos.units[0].drop_ins[0]"),
    ),
    (
        "coreos: {units: [{name: a.service, drop_ins: [{name: x, content: '[Unit]'}]}]}\n",
        ("drop-in-name", "error", 2, "coreos.units[0].drop_ins[0].name"),
    ),
    (
        "coreos: {units: [{name: etcd2.service, enable: true}]}\n",
        ("enable-race", "error", 2, "coreos.units[0].enable"),
    ),
    (
        "coreos: {units: [{name: a.service, mask: true, command: start}]}\n",
        ("mask", "warning", 2, "coreos.units[0]"),
    ),
    (
        f"coreos:\n  etcd2:\n    discovery: {TOKEN_URL}\n    initial_cluster: a=http://192.0.2.1:2380\n",
        ("exclusive-keys", "error", 5, "coreos.etcd2.initial_cluster"),
    ),
    (
        "coreos: {etcd2: {discovery_srv: example.org, initial_cluster: a=b}}\n",
        ("exclusive-keys", "error", 2, "coreos.etcd2.initial_cluster"),
    ),
    (
        "coreos: {etcd2: {initial_cluster_state: old}}\n",
        ("invalid-value", "error", 2, "coreos.etcd2.initial_cluster_state"),
    ),
    ("coreos: {etcd2: {cert_file: /x}}\n", ("missing-key", "error", 2, "coreos.etcd2.key_file")),
    (
        "coreos: {etcd2: {listen_peer_urls: 'http://:2380'}}\n",
        ("empty-address", "error", 2, "coreos.etcd2.listen_peer_urls"),
    ),
    ("coreos: {etcd2: {name: '${private_ipv4}'}}\n", ("braced-variable", "warning", 2, "coreos.etcd2.name")),
    ("write_files: [{path: etc/x, content: a}]\n", ("file-path", "error", 2, "write_files[0].path")),
    ("write_files: [{path: /etc/../x, content: a}]\n", ("file-path", "error", 2, "write_files[0].path")),
    (
        f"ssh_authorized_keys:\n- {KEY}\n- {KEY} again\n",
        ("duplicate-ssh-key", "error", 4, "ssh_authorized_keys[1]"),
    ),
    ("ssh_authorized_keys: [AAAA]\n", None),
    ("ssh_authorized_keys: [hello]\n", ("ssh-key", "error", 2, "ssh_authorized_keys[0]")),
    ("users: [{name: Big Ben}]\n", ("user-name", "error", 2, "users[0].name")),
    ("users: [{name: a, passwd: secret}]\n", ("plain-password", "error", 2, "users[0].passwd")),
    ("users: [{name: a, sudo: 'ALL=(ALL) ALL'}]\n", ("unknown-key", "warning", 2, "users[0].sudo")),
    ("users: [{name: a, passwd: $6$x$y}]\n", ("secret", "warning", 2, "users[0].passwd")),
    ("coreos: {fleet: {etcd_password: x}}\n", ("secret", "error", 2, "coreos.fleet.etcd_password")),
    (
        "write_files:\n- path: /x\n  content: |\n    -----BEGIN EC PRIVATE KEY-----\n",
        ("secret", "error", 4, "write_files[0].content"),
    ),
    (
        "write_files: [{path: /x, content: 'DB_PASSWORD=hunter2'}]\n",
        ("secret", "error", 2, "write_files[0].content"),
    ),
    ("units: []\n", ("misplaced-key", "error", 2, "units")),
    ("hostname: -x\n", ("hostname", "error", 2, "hostname")),
    ("hostname: core-01.example.org\n", ("hostname", "warning", 2, "hostname")),
]


@pytest.mark.parametrize(("text", "expected"), RULES)
def test_each_rule_is_found_where_it_is_broken(text, expected):
    assert (expected is None) or expected in rules(text)
    if expected is None:
        assert rules(text) == []


@pytest.mark.parametrize(
    ("text", "rule", "line", "words"),
    [
        ("", "header", 1, "its first line has to be #cloud-config"),
        ("#cloud-config-x\n", "header", 1, "begins with '#cloud-config-x'"),
        ("hostname: x\n", "header", 1, "begins with 'hostname: x'"),
        ("#cloud-config\n\thostname: x\n", "tab", 2, "YAML takes spaces only"),
        ("#cloud-config\ncoreos:\n\tunits: []\n", "tab", 3, "YAML takes spaces only"),
        ("#cloud-config\nhostname: [\n", "yaml", 3, "is not YAML"),
        ("#cloud-config\nhostname: 'x\n", "yaml", 3, "is not YAML"),
        ("#cloud-config\n" + "[" * 500, "limit", 0, "nested too deeply"),
        ("#cloud-config\n? [a, b]\n: c\n", "yaml", 2, "a key that is not a word"),
        ("#cloud-config\n- a\n", "wrong-type", 2, "is a list; give a mapping"),
        ("#cloud-config\n\x07", "yaml", 0, "is not YAML"),
        ("#cloud-config\na: &a [*a]\n", "limit", 2, "nested too deeply"),
    ],
)
def test_what_is_no_document_is_one_finding(text, rule, line, words):
    found = check(text).findings
    assert (found[0].rule, found[0].line) == (rule, line)
    assert words in found[0].message


def test_a_bomb_of_aliases_is_refused():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefgh", "bcdefghi")]
    assert [one.rule for one in check("#cloud-config\n" + "\n".join(lines)).findings] == ["limit"]


def test_what_is_packed_is_opened():
    found = lint.check_text(gzip.compress(CLEAN.encode()))
    assert (found.findings, found.wrapping) == ([], ("gzip",))
    mail = (
        'Content-Type: multipart/mixed; boundary="b"\nMIME-Version: 1.0\n\n--b\nContent-Type: text/cloud-config\n\n'
        "#cloud-config\nhostname: core-01\n--b--\n"
    )
    found = lint.check_text(mail.encode())
    assert (found.findings, found.data, found.wrapping) == ([], {"hostname": "core-01"}, ("mime",))


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        (b"\x1f\x8bnothing", "encoding"),
        (gzip.compress(CLEAN.encode())[:40], "encoding"),
        (gzip.compress(b" " * 9_000_000), "limit"),
        (b"#cloud-config\nhostname: \xff\n", "encoding"),
        (b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nhello\n--b--\n", "mime"),
    ],
)
def test_what_cannot_be_opened_is_one_finding(document, rule):
    assert [one.rule for one in lint.check_text(document).findings] == [rule]


def test_scripts_and_ignition_are_told_apart():
    assert check("#!/bin/sh\n").kind == "script"
    assert check(json.dumps({"ignition": {"version": "3.3.0"}})).kind == "ignition"


def test_variables_without_a_value_are_errors():
    text = "coreos: {etcd2: {name: 'a-$private_ipv4', data_dir: '\\$public_ipv4'}}\n"
    assert "unresolved-variable" not in [one[0] for one in rules(text)]
    for addresses in ({}, {"private_ipv4": ""}, {"public_ipv4": "192.0.2.1"}):
        assert ("unresolved-variable", "error", 2, "coreos.etcd2.name") in rules(text, addresses=addresses)
    assert "unresolved-variable" not in [one[0] for one in rules(text, addresses={"private_ipv4": "192.0.2.1"})]


def test_variables_are_put_in_by_the_originals_rule():
    data = {"a": ["$private_ipv4:1", "\\$private_ipv4", "${private_ipv4}", "$private_ipv6x", "$other"]}
    known = {"private_ipv4": "192.0.2.1", "private_ipv6": "2001:db8::1"}
    assert lint.substitute(data, known) == {
        "a": ["192.0.2.1:1", "$private_ipv4", "${private_ipv4}", "2001:db8::1x", "$other"]
    }


def test_the_number_of_a_playbooks_octal_is_refused():
    found = lint.check_data({"write_files": [{"path": "/x", "content": "a", "permissions": 0o644}]}).findings
    assert [one.rule for one in found] == ["unquoted-octal"]
    assert "is the number 420, which is 0644 in octal" in found[0].message


def test_secrets_can_be_allowed():
    found = lint.check_data({"write_files": [{"path": "/x", "content": "TOKEN=abcdefgh"}]}, allow_secrets=True)
    assert [(one.rule, one.severity) for one in found.findings] == [("secret", "info")]


def test_keys_beyond_coreos_are_for_descriptions_only():
    assert rules("packages: [jq]\n") == [("unknown-key", "error", 2, "packages")]
    assert lint.check_data({"packages": ["jq"]}).findings == []


def test_every_finding_is_one_line():
    for one in check("#cloud-config\nwrite_files: [{path: 'a\\nb', content: a, permissions: 'a\\nb'}]\n").findings:
        assert "\n" not in one.sentence()


@given(st.text(max_size=200))
def test_any_text_is_judged(text):
    found = lint.check_text(("#cloud-config\n" + text).encode("utf-8", "surrogatepass"))
    assert all(isinstance(one.message, str) for one in found.findings)


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(data):
    lint.check_text(data)


KEYS = st.sampled_from(
    ["coreos", "units", "name", "write_files", "path", "content", "users", "etcd2", "drop-ins", "drop_ins", "update",
     "permissions", "hostname", "discovery", "encoding", "networks", "ssh_authorized_keys", "x"]
)  # fmt: skip
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("$private_ipv4"))
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, DATA, max_size=4))
def test_any_data_is_judged(data):
    lint.check_data(data, addresses={})
