# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: etcd_token_problems
short_description: Say why a discovery token does not do, before or after a cluster is formed with it
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Before a cluster is formed, a token must be known, of the right size and unused.
  - Afterwards, what registered must be the members of the cluster, each with its own id, name and peer URL.
options:
  _input:
    description: What M(flotilla.cluster.etcd_discovery) returned for the token, or its failure.
    type: dict
    required: true
  members:
    description: The members that the inventory names, from P(flotilla.cluster.cluster_members#filter).
    type: list
    elements: dict
    required: true
  peer_port:
    description: Port of the members' peer URLs.
    type: int
    default: 2380
  running:
    description:
      - Members of the cluster that was formed, from M(flotilla.cluster.etcd_cluster_info).
      - Without them the token is judged for a cluster that is still to be formed.
    type: list
    elements: dict
"""

EXAMPLES = r"""
---
- name: Refuse a token that does not do
  ansible.builtin.fail:
    msg: "{{ problems | join('; ') }}"
  when: problems | length > 0
  vars:
    problems: "{{ token | flotilla.cluster.etcd_token_problems(members) }}"
"""

RETURN = r"""
_value:
  description: One sentence a problem, without a full stop and without the token.
  type: list
  elements: str
  sample: ["core-01 has registered with the token already: a member can do so only once, so create a new one"]
"""

import typing as t

from ansible_collections.flotilla.cluster.plugins.filter.etcd_bootstrap_plan import peer_url

Member = t.Mapping[str, str]
Found = t.Mapping[str, t.Any]


def _named(entry: Found) -> str:
    return f"{entry['name'] or '?'} ({', '.join(entry['peer_urls']) or 'no URL'})"


def _before(token: Found, members: t.Sequence[Member], peer_port: int) -> list[str]:
    if token["status"] != "open":
        return [str(token["summary"])]
    ours = {peer_url(member, peer_port): member["host"] for member in members}
    known = [entry for entry in token["members"] if set(entry["peer_urls"]) & set(ours)]
    others = [entry for entry in token["members"] if entry not in known]
    found = []
    if others:
        names = ", ".join(_named(entry) for entry in others)
        found.append(f"the token is another cluster's: {names} registered with it; create a new one")
    if known:
        hosts = ", ".join(ours[url] for entry in known for url in entry["peer_urls"] if url in ours)
        found.append(
            f"{hosts} registered with the token already and has not joined: a member can register only once, so create"
            " a new one"
        )
    return found


def _after(token: Found, members: t.Sequence[Member], peer_port: int, running: t.Sequence[Found]) -> list[str]:
    ids = {url: item["id"] for item in running for url in item["peer_urls"]}
    entries = {url: entry for entry in token["members"] for url in entry["peer_urls"]}
    found = []
    for member in members:
        url = peer_url(member, peer_port)
        entry = entries.get(url)
        if entry is None:
            found.append(f"{member['host']} ({url}) has not registered with the token that the cluster was formed with")
        elif (entry["name"], entry["id"]) != (member["name"], ids.get(url, "")):
            found.append(
                f"with the token {entry['name']} registered as member {entry['id']} at {url}, where"
                f" {member['name']} is member {ids.get(url) or 'of no id'} of the cluster"
            )
    known = {peer_url(member, peer_port) for member in members}
    strangers = [entry for entry in token["members"] if not set(entry["peer_urls"]) & known]
    found += [f"{_named(entry)} registered with the token and is no host of the inventory" for entry in strangers]
    return found


def etcd_token_problems(
    token: Found,
    members: t.Sequence[Member],
    peer_port: int | str = 2380,
    running: t.Sequence[Found] | None = None,
) -> list[str]:
    """Return the sentences that RETURN describes."""
    if "status" not in token:
        return [str(token.get("msg", "the token cannot be read"))]
    if running is None:
        return _before(token, members, int(peer_port))
    return _after(token, members, int(peer_port), running)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"etcd_token_problems": etcd_token_problems}
