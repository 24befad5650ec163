# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.flotilla.cluster.plugins.filter.etcd_bootstrap_plan import etcd_bootstrap_plan

HOSTS = ("core-01", "core-02", "core-03")
MEMBERS = [
    {"host": host, "name": host, "address": f"192.0.2.1{number}", "url_host": f"192.0.2.1{number}"}
    for number, host in enumerate(HOSTS, 1)
]
CLUSTER = ",".join(f"{member['name']}=https://{member['address']}:2380" for member in MEMBERS)
NEW = f"--initial-cluster={CLUSTER} --initial-cluster-state=new --initial-cluster-token=t"
EXISTING = f"--initial-cluster={CLUSTER} --initial-cluster-state=existing --initial-cluster-token=t"


def host(data=False, bootstrap="", members=()):
    """What etcd_cluster_info returns on one host."""
    return {"local": {"data": data, "bootstrap": bootstrap}, "members": list(members)}


def entry(number, joined=True, name=None):
    """One entry of a running member list."""
    return {
        "id": f"{number:x}",
        "name": f"core-0{number}" if name is None else name,
        "peer_urls": [f"https://192.0.2.1{number}:2380"],
        "joined": joined,
    }


def plan(**seen):
    """The problems and who starts how."""
    whole = etcd_bootstrap_plan(MEMBERS, {name.replace("_", "-"): found for name, found in seen.items()}, token="t")
    assert whole["again"] == []
    return {key: whole[key] for key in ("problems", "start")}


def test_fresh_hosts_form_a_new_cluster():
    found = plan(core_01=host(), core_02=host(), core_03=host())
    assert found == {"problems": [], "start": dict.fromkeys(HOSTS, NEW)}


def test_hosts_with_data_just_start():
    assert plan(core_01=host(data=True), core_02=host(data=True)) == {"problems": [], "start": {}}


def test_a_new_cluster_needs_all_members_in_the_play():
    found = plan(core_02=host())
    assert found["start"] == {}
    assert "core-01, core-03 of the etcd group take no part in this play" in found["problems"][0]


def test_an_interrupted_forming_goes_on():
    """One member began, with the same options, and waits for the others."""
    found = plan(core_01=host(data=True, bootstrap=NEW), core_02=host(bootstrap=NEW), core_03=host())
    assert found == {"problems": [], "start": {"core-02": NEW, "core-03": NEW}}


def test_forming_with_other_members_than_those_begun_is_refused():
    found = plan(core_01=host(data=True, bootstrap="--initial-cluster=old"), core_02=host(), core_03=host())
    assert found["start"] == {}
    assert "core-01 had begun to form another cluster (--initial-cluster=old)" in found["problems"][0]


def test_a_member_that_waits_in_the_list_joins():
    """Two of three have formed the cluster before the play died; the names are in the list from the beginning."""
    running = [entry(1), entry(2), entry(3, joined=False)]
    found = plan(core_01=host(data=True, members=running), core_03=host(members=running))
    assert found == {"problems": [], "start": {"core-03": EXISTING}}


def test_an_added_member_joins_under_its_own_name():
    running = [entry(1), entry(2), entry(3, joined=False, name="")]
    assert plan(core_03=host(members=running))["start"] == {"core-03": EXISTING}


def test_two_added_members_know_each_others_names():
    running = [entry(1), entry(2, joined=False, name=""), entry(3, joined=False, name="")]
    found = plan(core_02=host(members=running), core_03=host(members=running))
    assert found["start"] == {"core-02": EXISTING, "core-03": EXISTING}


def test_a_member_that_lost_its_data_does_not_come_back_by_itself():
    running = [entry(1), entry(2), entry(3)]
    found = plan(core_01=host(data=True, members=running), core_03=host(members=running))
    assert found["start"] == {}
    assert "core-03 has lost its data" in found["problems"][0]
    assert "etcdctl member remove 3" in found["problems"][0]
    assert "etcdctl member add core-03 --peer-urls=https://192.0.2.13:2380" in found["problems"][0]


def test_a_host_that_is_no_member_of_the_running_cluster_is_refused():
    found = plan(core_03=host(members=[entry(1), entry(2)]))
    assert found["start"] == {}
    assert "core-03 has no data and is not a member of the cluster that runs (core-01, core-02)" in found["problems"][0]


def test_a_cluster_without_quorum_keeps_an_empty_host_out():
    """No member answers, but there is data: forming a new cluster beside it would split it."""
    found = plan(core_01=host(data=True), core_02=host(), core_03=host())
    assert found["start"] == {}
    assert "core-02, core-03 has no data, while core-01 has the data" in found["problems"][0]


def test_two_clusters_are_a_problem():
    found = plan(core_01=host(members=[entry(1)]), core_02=host(members=[entry(2)]), core_03=host())
    assert found["start"] == {}
    assert "different clusters" in found["problems"][0]


def test_ipv6_and_another_port():
    members = [{"host": "a", "name": "m", "address": "2001:db8::1", "url_host": "[2001:db8::1]"}]
    found = etcd_bootstrap_plan(members, {"a": host()}, "12380", token="x")
    assert found["start"]["a"].startswith("--initial-cluster=m=https://[2001:db8::1]:12380 ")


@pytest.mark.parametrize("state", ["data", "empty"])
def test_nothing_is_started_without_members_in_the_play(state):
    found = etcd_bootstrap_plan(MEMBERS, {}, token=state)
    assert found == {"problems": [], "start": {}, "forms": False, "again": []}


FOUND_BY = "--discovery-fallback=exit --discovery-proxy="


def waiting(log=False):
    """A member that has begun to look for the others."""
    return {"local": {"data": True, "bootstrap": FOUND_BY, "log": log}, "members": []}


def found(**seen):
    return etcd_bootstrap_plan(
        MEMBERS, {name.replace("_", "-"): what for name, what in seen.items()}, token="t", found_by=FOUND_BY
    )


def test_members_that_find_each_other_start_with_those_options():
    plan = found(core_01=host(), core_02=host(), core_03=host())
    assert plan == {"problems": [], "start": dict.fromkeys(HOSTS, FOUND_BY), "forms": True, "again": []}


def test_a_member_that_waits_begins_again_because_it_registers_only_once():
    plan = found(core_01=waiting(), core_02=host(), core_03=host())
    assert (plan["start"], plan["again"]) == (dict.fromkeys(HOSTS, FOUND_BY), ["core-01"])


def test_a_member_with_a_log_has_found_the_others_and_goes_on():
    plan = found(core_01=waiting(log=True), core_02=host(), core_03=host())
    assert (sorted(plan["start"]), plan["again"]) == (["core-02", "core-03"], [])


def test_a_host_without_data_joins_a_cluster_that_runs_and_never_by_the_token():
    running = [entry(1), entry(2), entry(3, joined=False)]
    plan = found(core_01=host(data=True, members=running), core_03=host(members=running))
    assert plan == {"problems": [], "start": {"core-03": EXISTING}, "forms": False, "again": []}


def test_a_member_that_waits_in_vain_keeps_nothing_when_a_cluster_runs():
    running = [entry(1), entry(2), entry(3)]
    plan = found(core_01=host(data=True, members=running), core_03={**waiting(), "members": running})
    assert plan == {"problems": [], "start": {}, "forms": False, "again": []}


def test_no_new_cluster_beside_data_of_one_that_is_silent():
    plan = found(core_01=host(data=True), core_02=host(), core_03=host())
    assert plan["start"] == {}
    assert "has the data of a cluster that does not answer" in plan["problems"][0]
