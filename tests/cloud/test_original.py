# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ours beside CoreOS's own agent and validator, which are built here: the same files, and no finding less."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_apply as apply
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils._host_plan import PathState
from ansible_collections.flotilla.cluster.tests.unit.plugins.module_utils.test__cloud_lint import CLEAN, RULES
from support import original

ADDRESSES = {"public_ipv4": "192.0.2.11", "private_ipv4": "10.0.0.11"}
TOKEN = "https://discovery.example.org/" + "0" * 32
PEOPLE = {
    "etc/passwd": "root:x:0:0:::\nelroy:x:1234:1234:::\n",
    "etc/group": "root:x:0:\nelroy:x:1234:\ndocker:x:77:\n",
}
IDS = {"root": 0, "elroy": 1234, "docker": 77, "": 0}

# The user-data of coreos-vagrant's sample, as the walkthrough has readers copy it
WALKTHROUGH = f"""#cloud-config

coreos:
  etcd2:
    discovery: {TOKEN}
    advertise-client-urls: http://$public_ipv4:2379
    initial-advertise-peer-urls: http://$private_ipv4:2380
    listen-client-urls: http://0.0.0.0:2379,http://0.0.0.0:4001
    listen-peer-urls: http://$private_ipv4:2380,http://$private_ipv4:7001
  fleet:
    public-ip: $public_ipv4
  flannel:
    interface: $public_ipv4
  units:
    - name: etcd2.service
      command: start
    - name: fleet.service
      command: start
    - name: flanneld.service
      drop-ins:
      - name: 50-network-config.conf
        content: |
          [Service]
          ExecStartPre=/usr/bin/etcdctl set /coreos.com/network/config '{{ "Network": "10.1.0.0/16" }}'
      command: start
    - name: docker-tcp.socket
      command: start
      enable: true
      content: |
        [Unit]
        Description=Docker Socket for the API

        [Socket]
        ListenStream=2375
        Service=docker.service
        BindIPv6Only=both

        [Install]
        WantedBy=sockets.target
"""
# Of the time before, with etcd 0.4
OLDER = f"""#cloud-config

coreos:
  etcd:
    discovery: {TOKEN}
    addr: $public_ipv4:4001
    peer-addr: $private_ipv4:7001
  fleet:
    public-ip: $public_ipv4
    metadata: region=here,disk=ssd
  update:
    reboot-strategy: 'off'
    group: alpha
  units:
    - name: etcd.service
      command: start
    - name: fleet.service
      command: start
    - name: locksmithd.service
      mask: true
"""
# All that writes a file
ALL_FILES = """#cloud-config
hostname: HOST
manage_etc_hosts: localhost
write_files:
  - path: /etc/motd
    permissions: '0640'
    owner: root:docker
    content: |
      on $private_ipv4, not \\$private_ipv4, nor ${private_ipv4}
  - path: /home/elroy/bin/tool
    permissions: '755'
    owner: elroy
    encoding: gz+b64
    content: H4sIAAAAAAACA8tIzcnJBwCGphA2BQAAAA==
  - path: /etc/deep/er/and/deeper
    content: ''
coreos:
  etcd2:
    name: core-01
    max_wals: 3
    snapshot_count: 0
    debug: false
    heartbeat_interval: 250
    discovery: https://d.example.org/x
  fleet: {agent_ttl: 90s, disable_engine: true, engine_reconcile_interval: 2.5, etcd_servers: 'http://127.0.0.1:2379'}
  flannel: {etcd_prefix: /coreos.com/network, interface: $private_ipv4, ip_masq: 'true'}
  locksmith: {endpoint: 'http://127.0.0.1:2379', window_start: 'Thu 04:00', window_length: 1h30m}
  update: {reboot_strategy: etcd-lock, server: 'https://updates.example.org/', group: beta}
  oem:
    id: rackspace
    name: Rackspace Cloud Servers
    version_id: 1.2.3
    home_url: https://example.org/
    bug_report_url: https://example.org/bugs
  units:
    - name: 50-eth.network
      runtime: true
      content: |
        [Match]
        Name=nothing*
    - name: hello.service
      enable: true
      content: |
        [Service]
        ExecStart=/bin/sleep infinity
      drop_ins:
        - name: 10-a.conf
          content: |
            [Service]
            Nice=5
    - name: run.service
      runtime: true
      content: "[Service]\\nExecStart=/bin/true"
    - name: old.service
      mask: true
"""
# What a document finds on a machine
FRESH = {"usr/share/coreos/update.conf": "GROUP=stable\n"}
LIVED_IN = {
    "etc/coreos/update.conf": "# of the image\nGROUP=stable\nREBOOT_STRATEGY=reboot\nOTHER=1\n",
    "etc/environment": "PATH=/bin\nCOREOS_PUBLIC_IPV4=198.51.100.1\nLANG=C",
    "etc/systemd/system/old.service": "[Service]\nExecStart=/bin/true\n",
    "etc/motd": "old\n",
}


@dataclass
class Written:
    """What is in a directory: contents, mode and owner of files, and where links point."""

    files: dict[str, tuple[bytes, int, int, int]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def agent() -> Path:
    if os.geteuid() != 0:
        pytest.skip("the original is shut into a directory by root")
    made = original.program()
    if isinstance(made, str):
        pytest.skip(made)
    return made


def tree(root: Path) -> Written:
    found = Written()
    for path in sorted(root.rglob("*")):
        name = f"/{path.relative_to(root)}"
        if path.is_symlink():
            found.links[name] = str(path.readlink())
        elif path.is_file():
            seen = path.stat()
            found.files[name] = (path.read_bytes(), stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
    return found


def by_the_original(agent: Path, root: Path, text: str, before: dict[str, str]) -> tuple[Written, list[list[str]]]:
    """What the agent leaves in a directory that was like this before, and what it asked of systemd."""
    for name, content in {**PEOPLE, **before}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "bin").mkdir()
    (root / "dev").mkdir()
    os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    shutil.copy(agent, root / "bin/chown")
    document = root.parent / "user-data"
    document.write_text(text)
    asked = original.run(
        agent, "apply", root, document, **{f"COREOS_{name.upper()}": value for name, value in ADDRESSES.items()}
    )
    found = tree(root)
    for name in (*PEOPLE, "bin/chown", "usr/share/coreos/update.conf"):
        found.files.pop(f"/{name}", None)
    return found, asked


def by_us(text: str, before: dict[str, str]) -> tuple[Written, apply.Plan]:
    """What cloud_config_apply would make of a host that is like this, and all that it would do."""
    data = lint.check_text(text.encode()).data
    checked = lint.check_data(data, addresses=ADDRESSES, allow_secrets=True)
    assert checked.errors == []
    desired = apply.desired_from(models.build(lint.substitute(checked.data, ADDRESSES), ADDRESSES), persistent=False)
    there = {f"/{name}": content.encode() for name, content in before.items()}
    paths = {path: PathState("file", uid=0, gid=0, mode=0o644, content=content) for path, content in there.items()}
    plan = apply.make_plan(desired, apply.Observed(paths=paths))
    assert plan.problems == ()
    found = Written({path: (content, 0o644, 0, 0) for path, content in there.items() if not path.startswith("/usr/")})
    for one in (*plan.write, *plan.fix):
        found.files[one.path] = (one.content, one.mode, IDS[one.owner], IDS[one.group])
    for path, target in plan.links:
        found.files.pop(path, None)
        found.links[path] = target
    return found, plan


@pytest.mark.parametrize("before", [FRESH, LIVED_IN], ids=["fresh", "lived-in"])
@pytest.mark.parametrize("text", [WALKTHROUGH, OLDER, ALL_FILES], ids=["walkthrough", "older", "all-files"])
def test_the_same_files(agent: Path, tmp_path: Path, text: str, before: dict[str, str]) -> None:
    text = text.replace("HOST", socket.gethostname().split(".")[0])
    (tmp_path / "root").mkdir()
    theirs, asked = by_the_original(agent, tmp_path / "root", text, before)
    ours, plan = by_us(text, before)
    assert ours.files == theirs.files
    assert ours.links == theirs.links
    assert len(theirs.files) > 3
    assert [["enable", name] for name in plan.enable] == [one for one in asked if one[0] == "enable"]


# --- the validator ------------------------------------------------------------------------------------------------

FAULTS = [
    "hostname: a\ncoreos:\n  etcd:\n    discovery: disco\n    addr: a\n",
    "coreos:\n  etcd2:\n    discovery: disco\n    ca_file: /x\n    proxy: maybe\n    max_wals: many\n    unknown: 1\n",
    "coreos:\n  fleet:\n    public-ip: a\n    verbosity: [1]\n    verify_units: 'yes'\n  flannel: 3\n"
    "  locksmith: {window_start: soon}\n",
    "coreos:\n  update:\n    reboot-strategy: best-effort\n    gruop: x\n",
    "coreos:\n  update:\n    reboot-strategy: off\n    server: [x]\n",
    "coreos:\n  units:\n    - name: a.service\n      command: begin\n      dropins: []\n      enable: 1\n"
    "    - nam: b\n  write_files:\n    - path: /x\n",
    "write_files:\n  - path: /usr/x\n    permissions: 12345\n  - path: /a\n    encoding: rot13\n"
    "    content: x\n  - paht: /x\n",
    "write_files:\n  - path: /a\n    encoding: b64\n    content: '***'\n  - path: /b\n"
    "    encoding: gzip\n    content: hello\n",
    "write_files:\n  path: /a\nusers: core\nssh_authorized_keys: key\nmanage_etc_hosts: true\n",
    "users:\n  - name: a\n    coreos-ssh-import-github: b\n    no-create-home: 3\n    sudo: x\n"
    "    lock-passwd: true\n    groups: x\n",
    "coreos:\n  oem: x\n  units: {name: x}\n  locksmith:\n    window-length: 1 hour\n    endpoint: {a: b}\n",
    "write_files:\n  - {path: /x, permissions: 0999, content: a}\n  - {path: /y, owner: [a], content: {b: c}}\n",
    "coreos: []\nhostname: {a: b}\n",
    "a: [b\n",
    "a:\n\tb: c\n",
    "- a\n- b\n",
    "just a text\n",
    "a: b: c\n",
    "coreos: {update: {group: a:b}}\n",
    "coreos: {update: {server: https://updates.example.org/}}\n",
    "hostname: *nothing\n",
    "coreos:\n  update: {server: 'https://updates.example.org/', group: a}\n  oem: {id: [b:c]}\n",
    "x: 'open\n",
]


def documents() -> list[bytes]:
    found = [b"#cloud-config\n" + text.encode() for text in FAULTS]
    found += [b"#cloud-config\n" + text.encode() for text, _finding in RULES]
    return [
        *found,
        WALKTHROUGH.encode(),
        OLDER.encode(),
        ALL_FILES.encode(),
        CLEAN.encode(),
        b"no header\n",
        b"#!/bin/sh\n",
        b"",
    ]


#: What the validator says, and the rules by which we say it
SAID = {
    "incorrect type": {"wrong-type", "invalid-value"},
    "unrecognized key": {"unknown-key", "misplaced-key"},
    "deprecated key": {"deprecated"},
    "invalid value": {"invalid-value", "unquoted-octal", "unquoted-boolean"},
    "content cannot be decoded": {"undecodable-content", "invalid-value"},
    "file cannot be written": {"path-under-usr"},
    "write_files doesn't belong": {"misplaced-key"},
    "discovery URL": {"discovery-url"},
    "must be": {"header"},
}


def told(entry: dict[str, Any], ours: list[lint.Finding]) -> bool:
    """Whether one of our findings is what the validator says. It knows no lines inside of brackets and says 0."""
    rules = next((rules for words, rules in SAID.items() if entry["message"].startswith(words)), None)
    if rules is None or 'incorrect type for ""' in entry["message"]:
        # no YAML: each parser has its own idea of the line where it begins to be wrong
        return any(one.rule in ("yaml", "tab", "bare-colon", "wrong-type") for one in ours)
    key = re.search('(?:type for|key) "(.+?)"', entry["message"])
    lines = {0, entry["line"]}
    if "cannot be decoded" in entry["message"]:
        lines.add(entry["line"] - 1)  # an encoding that nobody knows is told once, where it stands
    return any(
        one.rule in rules
        and (entry["line"] == 0 or one.line in lines)
        and (not key or one.key.replace("-", "_").endswith(key[1]) or not one.key)
        for one in ours
    )


def test_no_line_that_the_validator_finds_is_passed_over(agent: Path, tmp_path: Path) -> None:
    texts = documents()
    paths = [tmp_path / str(number) for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    missed, count = [], 0
    for text, said in zip(texts, original.run(agent, "validate", *paths), strict=True):
        ours = lint.check_text(text).findings
        count += len(said["entries"])
        if said["failed"] and not any(one.severity == lint.ERROR for one in ours):
            missed.append((text.decode(), said["failed"]))
        missed += [(text.decode(), entry) for entry in said["entries"] if not told(entry, ours)]
    assert missed == []
    assert count > 80
    print(f"{len(texts)} documents, {count} findings of the validator")
