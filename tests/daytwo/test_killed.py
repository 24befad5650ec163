# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks of day two whose controller is killed at random tasks: run again, each finishes what it began.

Part of make test-etcd, as root: three hosts with Debian's etcd. DAYTWO_SEED and DAYTWO_KILLS (kills of each playbook)
repeat a run or make a longer one.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from daytwo.lab import ROOT, Lab, unchanged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="local hosts are made by root")

HOSTS = ["dx-01", "dx-02", "dx-03"]
SEED = int(os.environ.get("DAYTWO_SEED", time.time()))
KILLS = int(os.environ.get("DAYTWO_KILLS", "2"))
WIPE = "systemctl kill --signal KILL etcd; systemctl stop etcd; rm -rf /var/lib/etcd/member"
# A forked child of a killed controller may hold a module for a moment.
SETTLES = 3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"), os.environ.get("ETCD_CLUSTER", "etcdkill"), "dx-")
    try:
        made.up()
        made.play("cluster.yml")
        made.etcdctl("put /marker there")
        yield made
    finally:
        made.down()


def killed(lab: Lab, at: int, name: str, **variables: Any) -> bool:
    """Run a playbook up to a task; return whether it got that far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILLED_AT", str(at))
        patch.setenv("ANSIBLE_CALLBACK_PLUGINS", str(ROOT / "tests/support/callback"))
        patch.setenv("ANSIBLE_CALLBACKS_ENABLED", "killed_at")
        code = lab.run(name, **variables).returncode
    time.sleep(SETTLES)
    return code == -9


def again_and_again(lab: Lab, name: str, prepare: Callable[[], Any], **variables: Any) -> None:
    """Kill a playbook at random tasks, finish it with another run, and see that nothing is left to do."""
    chance = random.Random(SEED)
    prepare()
    tasks = lab.play(name, **variables).count("\nTASK [")
    for at in sorted(chance.sample(range(3, tasks), KILLS)):
        print(f"{name} killed at task {at} of {tasks}, seed {SEED}")
        prepare()
        assert killed(lab, at, name, **variables)
        lab.play(name, **variables)
        assert lab.etcdctl("member list").count("started") == len(HOSTS)
        assert lab.etcdctl("get --print-value-only /marker").strip() == "there"
        assert unchanged(lab.play("cluster.yml"))


def test_new_certificates(lab: Lab) -> None:
    again_and_again(lab, "rotate_certs.yml", lambda: None, rotate_certs_authorities=True)
    assert sorted(path.name for path in (lab.folder / "pki").iterdir()) == [
        f"etcd-{who}-ca.{suffix}" for who in ("client", "peer") for suffix in ("crt", "key")
    ]


def test_a_member_that_is_replaced(lab: Lab) -> None:
    again_and_again(lab, "etcd_replace.yml", lambda: lab.on(HOSTS[1], WIPE), etcd_replace_host=HOSTS[1])


def test_members_that_come(lab: Lab) -> None:
    one = lab.of_one_member()
    again_and_again(
        lab, "etcd_scale.yml", lambda: lab.play("etcd_scale.yml", inventory=one, etcd_scale_remove=HOSTS[1:])
    )
