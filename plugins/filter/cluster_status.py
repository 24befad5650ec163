# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: cluster_status
short_description: Puts together what etcd, fleet, docker and the hosts say of a cluster
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Makes the report of the playbook C(status.yml) out of what its tasks have found. Whatever could not be asked is a
    problem in the report.
options:
  _input:
    description: Variables of all hosts, with C(__flotilla_host) and C(__status_docker) of those that could be asked.
    type: dict
    required: true
  wanted:
    description: Names of all hosts.
    type: list
    elements: str
    required: true
  there:
    description: Names of those that could be asked.
    type: list
    elements: str
    required: true
  etcd:
    description: Result of M(flotilla.cluster.etcd_cluster_info).
    type: dict
    required: true
  machines:
    description: Result of M(flotilla.cluster.fleet_machine_info).
    type: dict
    required: true
  units:
    description: Result of M(flotilla.cluster.fleet_unit_info).
    type: dict
    required: true
"""

EXAMPLES = r"""
---
- name: Put it together
  ansible.builtin.set_fact:
    report: "{{ hostvars | flotilla.cluster.cluster_status(wanted, there, etcd, machines, units) }}"
"""

RETURN = r"""
_value:
  description: The report.
  type: dict
  contains:
    problems:
      description: What is wrong, one sentence each.
      type: list
      elements: str
    members:
      description: Members of etcd.
      type: list
      elements: dict
    hosts:
      description: Hosts with their machine in the fleet, docker, and the end of what role pki has made.
      type: list
      elements: dict
    units:
      description: Units with the machines on which they are.
      type: list
      elements: dict
"""

import datetime
import json
import typing as t

Record = t.Mapping[str, t.Any]


def _failed(result: Record, what: str) -> list[str]:
    """A sentence when a question got no answer."""
    return [f"{what} does not answer: {result.get('msg', 'no reason given')}"] if result.get("failed") else []


def docker_of(result: Record | None) -> dict[str, t.Any]:
    """Version, storage driver and numbers of containers; C(problem) without an answer, {} when nobody asked."""
    if not result or result.get("skipped"):
        return {}
    try:
        said = json.loads(result.get("stdout") or "")
    except ValueError:
        said = {}
    if not said.get("ServerVersion"):
        return {"problem": str(result.get("stderr") or result.get("msg") or "no answer").strip().splitlines()[-1]}
    return {
        "version": said["ServerVersion"],
        "driver": said.get("Driver", ""),
        "running": int(said.get("ContainersRunning") or 0),
        "containers": int(said.get("Containers") or 0),
        "images": int(said.get("Images") or 0),
    }


def certificates_of(seen: Record, now: float) -> dict[str, t.Any]:
    """Until when nothing is due, or what is wrong; {} when the host has no note of role pki."""
    seal = (seen.get("seals") or {}).get("pki") or {}
    if not seal:
        return {}
    if not seal.get("intact"):
        return {"problem": "keys and certificates are not as role pki has left them"}
    until = float(seal.get("until") or 0)
    day = f"{datetime.datetime.fromtimestamp(until, datetime.timezone.utc):%Y-%m-%d}"
    if until <= now:
        return {"until": day, "problem": f"certificates are due for renewal since {day}: run site.yml"}
    return {"until": day}


def unit_of(unit: Record, hosts: Record) -> dict[str, t.Any]:
    """A unit in short: what it is, where, and why not."""
    places = [
        {
            "host": hosts.get(state["machine_id"], state["machine_id"][:8]),
            "active": state["active"],
            "sub": state["sub"],
        }
        for state in unit["states"]
    ]
    running = [place for place in places if place["active"] in ("active", "activating", "reloading")]
    bad = unit["desired_state"] == "launched" and not running and "@." not in unit["name"]
    done = any(place["active"] == "inactive" and place["sub"] == "dead" for place in places) and not unit["reason"]
    return {
        "name": unit["name"],
        "desired": unit["desired_state"],
        "reason": unit["reason"],
        "places": places,
        "bad": any(place["active"] == "failed" for place in places) or (bad and not done),
    }


def _host(name: str, variables: Record, there: bool, machines: Record, now: float) -> dict[str, t.Any]:
    seen = variables.get("__flotilla_host") or {}
    machine = machines.get(str(seen.get("machine_id"))) or {}
    return {
        "name": name,
        "there": there,
        "os": " ".join(str(seen.get("os", {}).get(key, "")) for key in ("id", "version_id")).strip() if there else "",
        "id": str(seen.get("machine_id", ""))[:8],
        "address": machine.get("primary_ip", ""),
        "metadata": dict(machine.get("metadata") or {}),
        "in_fleet": bool(machine),
        "draining": bool(machine.get("draining")),
        "docker": docker_of(variables.get("__status_docker")) if there else {},
        "certificates": certificates_of(seen, now) if there else {},
    }


def _host_problems(host: Record, fleet_answers: bool) -> t.Iterator[str]:
    if not host["there"]:
        yield f"{host['name']} cannot be reached"
        return
    for what in ("docker", "certificates"):
        if host[what].get("problem"):
            yield f"{host['name']}: {what}: {host[what]['problem']}"
    if fleet_answers and host["docker"] and not host["in_fleet"]:
        yield f"{host['name']} is not in the fleet"


def cluster_status(
    hostvars: Record,
    wanted: t.Sequence[str],
    there: t.Sequence[str],
    etcd: Record,
    machines: Record,
    units: Record,
    now: float | None = None,
) -> dict[str, t.Any]:
    """Return what RETURN describes; C(now) is in seconds since the epoch."""
    moment = datetime.datetime.now(datetime.timezone.utc).timestamp() if now is None else now
    by_id = {machine["id"]: machine for machine in machines.get("machines") or []}
    hosts = [_host(name, hostvars[name], name in there, by_id, moment) for name in wanted]
    names = {str((hostvars[name].get("__flotilla_host") or {}).get("machine_id")): name for name in wanted}
    found = [unit_of(unit, names) for unit in units.get("units") or []]
    problems = [*_failed(etcd, "etcd"), *(f"etcd: {text}" for text in etcd.get("problems") or [])]
    problems += [*_failed(machines, "fleet"), *([] if machines.get("failed") else _failed(units, "fleet"))]
    for host in hosts:
        problems += _host_problems(host, not machines.get("failed"))
    for unit in found:
        if unit["bad"]:
            states = ", ".join(f"{place['active']} on {place['host']}" for place in unit["places"]) or "on no machine"
            problems.append(f"unit {unit['name']} is {states}" + (f": {unit['reason']}" if unit["reason"] else ""))
    return {
        "problems": problems,
        "members": list(etcd.get("members") or []),
        "hosts": hosts,
        "units": found,
        "time": f"{datetime.datetime.fromtimestamp(moment, datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
    }


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"cluster_status": cluster_status}
