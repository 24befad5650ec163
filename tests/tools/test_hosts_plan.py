# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, addresses, groups and state of local hosts."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from localhosts import plan
from localhosts.plan import Cluster, HostsError

IDS = [f"{number:032x}" for number in range(1, 250)]
SUBNET = ipaddress.IPv4Network("10.79.7.0/24")

names = st.from_regex(plan._NAME, fullmatch=True)


def make(hosts: int, **changes: object) -> Cluster:
    cluster = plan.grow(Cluster("local", "core-", SUBNET), hosts, ("base", "cached"), IDS)
    return dataclasses.replace(cluster, **changes)


@pytest.mark.parametrize("name", ["local", "a", "0", "molecule-default", "a" * 40])
def test_cluster_name_accepted(name: str) -> None:
    assert plan.check_cluster_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", ".locks", "a b", "a_b", "a" * 41, "a\n"])
def test_cluster_name_refused(name: str) -> None:
    with pytest.raises(HostsError, match="not usable"):
        plan.check_cluster_name(name)


@pytest.mark.parametrize("prefix", ["", "-", "1", "Core-", "a/"])
def test_prefix_refused(prefix: str) -> None:
    with pytest.raises(HostsError, match="--prefix"):
        plan.check_prefix(prefix)


@given(name=names, number=st.integers(1, plan.MAX_HOSTS))
def test_interface_names_fit_the_kernel(name: str, number: int) -> None:
    assert len(plan.bridge_name(name)) <= 15
    assert len(plan.veth_name(name, number)) <= 15


def test_long_names_that_begin_alike_get_tags_of_their_own() -> None:
    assert plan.tag("molecule-default") != plan.tag("molecule-upgrade")


@given(name=names, used=st.sets(st.integers(0, 255), max_size=255))
def test_subnet_overlaps_nothing_in_use(name: str, used: set[int]) -> None:
    taken = [ipaddress.IPv4Network(f"10.79.{third}.0/24") for third in used]
    chosen = plan.choose_subnet(name, taken)
    assert chosen.subnet_of(plan.POOL)
    assert chosen.prefixlen == 24
    assert not any(chosen.overlaps(network) for network in taken)


def test_subnet_stays_the_same_while_it_is_free() -> None:
    first = plan.choose_subnet("local", [])
    assert plan.choose_subnet("local", [ipaddress.IPv4Network("192.0.2.0/24")]) == first
    assert plan.choose_subnet("local", [first]) != first


def test_subnet_next_to_a_wider_network_in_use() -> None:
    half = ipaddress.IPv4Network("10.79.0.0/17")
    assert not plan.choose_subnet("local", [half]).overlaps(half)


def test_no_subnet_left() -> None:
    with pytest.raises(HostsError, match=r"no free /24 is left in 10\.79\.0\.0/16"):
        plan.choose_subnet("local", [ipaddress.IPv4Network("10.0.0.0/8")])


def test_addresses() -> None:
    cluster = make(plan.MAX_HOSTS)
    addresses = [cluster.address(host) for host in cluster.hosts]
    assert str(addresses[0]) == "10.79.7.11"
    assert len(set(addresses)) == plan.MAX_HOSTS
    assert cluster.gateway not in addresses
    assert all(address in SUBNET and address != SUBNET.broadcast_address for address in addresses)


@pytest.mark.parametrize(
    ("hosts", "members"), [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (7, 5), (8, 5), (200, 5)]
)
def test_members(hosts: int, members: int) -> None:
    cluster = make(hosts)
    assert cluster.etcd == tuple(f"core-{number:02d}" for number in range(1, members + 1))


@pytest.mark.parametrize("count", [0, -1, 201])
def test_count_refused(count: int) -> None:
    with pytest.raises(HostsError, match="1 to 200"):
        plan.check_count(count)


def test_growing_keeps_hosts_and_members() -> None:
    small = make(3)
    grown = plan.grow(small, 5, ("newer",), itertools.islice(IDS, 100, None))
    assert grown.hosts[:3] == small.hosts
    assert [host.name for host in grown.hosts[3:]] == ["core-04", "core-05"]
    assert {host.layers for host in grown.hosts[3:]} == {("newer",)}
    assert grown.etcd == small.etcd
    assert len({host.machine_id for host in grown.hosts}) == 5


def test_asking_for_fewer_changes_nothing() -> None:
    assert plan.grow(make(5), 3, ("newer",), IDS) == make(5)


def test_state_survives_its_file() -> None:
    cluster = make(2, variables={"fleet_agent_ttl": "5s", "n": 3, "l": [1]}, inventories=("/x/hosts.yml",))
    assert plan.from_json(plan.to_json(cluster), "here") == cluster


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"version": 1}', '{"version": 1, "name": "x"}'])
def test_damaged_state(text: str) -> None:
    with pytest.raises(HostsError, match=r"^/state/file is damaged .* 'down'"):
        plan.from_json(text, "/state/file")


def test_state_with_a_value_of_the_wrong_kind() -> None:
    text = plan.to_json(make(1)).replace('"10.79.7.0/24"', '"10.79.7.1/24"')
    with pytest.raises(HostsError, match="damaged"):
        plan.from_json(text, "here")


def test_state_of_another_version() -> None:
    text = plan.to_json(make(1)).replace('"version": 1', '"version": 2')
    with pytest.raises(HostsError, match="version 2 and this program knows 1"):
        plan.from_json(text, "here")


def test_unknown_host() -> None:
    with pytest.raises(HostsError, match="no host 'core-09'; its hosts are: core-01, core-02"):
        make(2).host("core-09")


def test_recipe_hash_changes_with_every_part() -> None:
    parts = {"packages": ("a", "b"), "script": "x"}
    hashes = {
        plan.recipe_hash(parts),
        plan.recipe_hash({**parts, "packages": ("a",)}),
        plan.recipe_hash({**parts, "packages": ("b", "a")}),
        plan.recipe_hash({**parts, "script": "y"}),
        plan.recipe_hash({**parts, "below": ("c",)}),
    }
    assert len(hashes) == 5
    assert plan.recipe_hash(dict(reversed(parts.items()))) == plan.recipe_hash(parts)


def test_cut_between_two() -> None:
    assert plan.cut_pairs(make(3), "core-01", ["core-03"], False) == [
        ("vb-local-1", "vb-local-3"),
        ("vb-local-3", "vb-local-1"),
    ]


def test_cut_one_way_from_all_others() -> None:
    assert plan.cut_pairs(make(3), "core-02", [], True) == [
        ("vb-local-2", "vb-local-1"),
        ("vb-local-2", "vb-local-3"),
    ]


def test_cut_from_itself() -> None:
    with pytest.raises(HostsError, match="itself"):
        plan.cut_pairs(make(2), "core-01", ["core-01"], False)
