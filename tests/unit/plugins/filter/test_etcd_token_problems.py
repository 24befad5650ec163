# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.flotilla.cluster.plugins.filter.etcd_token_problems import etcd_token_problems

MEMBERS = [
    {"host": f"core-0{number}", "name": f"core-0{number}", "url_host": f"192.0.2.1{number}"} for number in (1, 2, 3)
]


def entry(number, **changes):
    """What a member wrote down under the token; the same form as the cluster's list of members."""
    return {"id": f"{number}f", "name": f"core-0{number}", "peer_urls": [f"https://192.0.2.1{number}:2380"], **changes}


def token(*members, status="open", summary=""):
    return {"status": status, "summary": summary, "members": list(members)}


ALL = [entry(1), entry(2), entry(3)]


def test_a_new_token_does():
    assert etcd_token_problems(token(), MEMBERS) == []


def test_what_the_service_says_is_passed_on():
    assert etcd_token_problems({"msg": "https://d.example: the token is unknown"}, MEMBERS) == [
        "https://d.example: the token is unknown"
    ]
    full = token(*ALL, status="full", summary="the token already has 3/3 members")
    assert etcd_token_problems(full, MEMBERS) == ["the token already has 3/3 members"]


def test_a_token_with_strangers_or_with_members_that_registered_before():
    stranger = entry(9, name="other", peer_urls=["https://192.0.2.99:2380"])
    found = etcd_token_problems(token(entry(2), stranger), MEMBERS)
    assert len(found) == 2
    assert "another cluster's: other (https://192.0.2.99:2380) registered" in found[0]
    assert "core-02 registered with the token already" in found[1]


def test_all_members_registered_as_themselves():
    assert etcd_token_problems(token(*ALL, status="full"), MEMBERS, running=ALL) == []


def test_each_member_is_compared_by_id_name_and_url():
    for wrong in (entry(2, id="99"), entry(2, name="core-01")):
        (found,) = etcd_token_problems(token(entry(1), wrong, entry(3), status="full"), MEMBERS, running=ALL)
        assert found.startswith(
            f"with the token {wrong['name']} registered as member {wrong['id']} at https://192.0.2.12"
        )
    moved = token(entry(1), entry(2, peer_urls=["https://192.0.2.99:2380"]), entry(3), status="full")
    found = etcd_token_problems(moved, MEMBERS, running=ALL)
    assert found == [
        "core-02 (https://192.0.2.12:2380) has not registered with the token that the cluster was formed with",
        "core-02 (https://192.0.2.99:2380) registered with the token and is no host of the inventory",
    ]
