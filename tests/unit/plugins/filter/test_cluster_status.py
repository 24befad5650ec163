# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The report of the playbook status.yml."""

from __future__ import annotations

import copy
import json

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.cluster_status import cluster_status

NOW = 1_800_000_000.0
DAY = 86400
IDS = {"core-01": "f1" + "0" * 30, "core-02": "f2" + "0" * 30}
DOCKER = {"ServerVersion": "20.10.24", "Driver": "overlay2", "ContainersRunning": 2, "Containers": 3, "Images": 1}


def host(name, **docker):
    return {
        "__flotilla_host": {
            "machine_id": IDS[name],
            "os": {"id": "debian", "version_id": "12"},
            "seals": {"pki": {"intact": True, "until": NOW + 300 * DAY}},
        },
        "__status_docker": docker or {"rc": 0, "stdout": json.dumps(DOCKER)},
    }


def unit(name="web.service", active="active", sub="running", machine="core-01", **more):
    states = [{"machine_id": IDS[machine], "hash": "", "load": "loaded", "active": active, "sub": sub}]
    return {"name": name, "desired_state": "launched", "reason": "", "states": states, **more}


@pytest.fixture
def seen():
    """A cluster of which nothing bad can be said."""
    machines = [{"id": id, "primary_ip": "192.0.2.1", "metadata": {}, "draining": False} for id in IDS.values()]
    return copy.deepcopy(
        {
            "hostvars": {name: host(name) for name in IDS},
            "wanted": list(IDS),
            "there": list(IDS),
            "etcd": {"problems": [], "members": [{"name": "core-01"}]},
            "machines": {"machines": machines},
            "units": {"units": [unit()]},
        }
    )


def test_a_cluster_in_order(seen):
    status = cluster_status(**seen, now=NOW)
    assert status["problems"] == []
    assert status["members"] == [{"name": "core-01"}]
    assert status["hosts"][0]["docker"]["running"] == 2
    assert status["hosts"][0]["certificates"] == {"until": "2027-11-11"}
    assert status["units"][0]["places"] == [{"host": "core-01", "active": "active", "sub": "running"}]


def unreachable(seen):
    seen["there"].remove("core-02")
    del seen["hostvars"]["core-02"]["__flotilla_host"]


def silent_docker(seen):
    seen["hostvars"]["core-01"] = host("core-01", rc=1, stdout='{"ServerErrors":["x"]}', stderr="a\nCannot connect\n")


def due(seen):
    seen["hostvars"]["core-01"]["__flotilla_host"]["seals"]["pki"]["until"] = NOW - DAY


def touched(seen):
    seen["hostvars"]["core-01"]["__flotilla_host"]["seals"]["pki"]["intact"] = False


def without_etcd(seen):
    seen["etcd"] = {"failed": True, "msg": "no member answers"}


def sick_etcd(seen):
    seen["etcd"]["problems"] = ["core-02 does not answer"]


def without_fleet(seen):
    seen["machines"] = seen["units"] = {"failed": True, "msg": "no such socket"}


def lost_machine(seen):
    del seen["machines"]["machines"][1]


def failed_unit(seen):
    seen["units"]["units"] = [unit(active="failed", sub="failed")]


def homeless_unit(seen):
    seen["units"]["units"] = [unit(states=[], reason="no machine has metadata disk=ssd")]


@pytest.mark.parametrize(
    ("spoil", "problems"),
    [
        (unreachable, ["core-02 cannot be reached"]),
        (silent_docker, ["core-01: docker: Cannot connect"]),
        (due, ["core-01: certificates: certificates are due for renewal since 2027-01-14: run site.yml"]),
        (touched, ["core-01: certificates: keys and certificates are not as role pki has left them"]),
        (without_etcd, ["etcd does not answer: no member answers"]),
        (sick_etcd, ["etcd: core-02 does not answer"]),
        (without_fleet, ["fleet does not answer: no such socket"]),
        (lost_machine, ["core-02 is not in the fleet"]),
        (failed_unit, ["unit web.service is failed on core-01"]),
        (homeless_unit, ["unit web.service is on no machine: no machine has metadata disk=ssd"]),
    ],
)
def test_what_is_wrong_is_told_once(seen, spoil, problems):
    spoil(seen)
    assert cluster_status(**seen, now=NOW)["problems"] == problems


@pytest.mark.parametrize(
    "fine",
    [
        unit("web@.service", states=[]),
        unit(desired_state="inactive", states=[]),
        unit("job.service", active="inactive", sub="dead"),
        unit(active="activating", sub="start"),
    ],
)
def test_not_everything_has_to_run(seen, fine):
    seen["units"]["units"] = [fine]
    assert cluster_status(**seen, now=NOW)["problems"] == []


def test_a_host_of_etcd_alone_needs_no_fleet_and_no_docker(seen):
    seen["hostvars"]["core-02"]["__status_docker"] = {"skipped": True}
    lost_machine(seen)
    assert cluster_status(**seen, now=NOW)["problems"] == []
