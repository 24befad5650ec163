# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything that role bootstrap refuses, and nothing else."""

from __future__ import annotations

import copy
import typing as t

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.cluster.plugins.filter.preflight_problems import FilterModule

preflight_problems = FilterModule().filters()["preflight_problems"]

NOW = 1_800_000_000.0
SYSTEMS = {"debian": ["12", "13"], "ubuntu": ["22.04", "24.04"]}
MEMBERS = ["core-01", "core-02", "core-03"]


def host(number: int, **more: t.Any) -> dict[str, t.Any]:
    """A host that is fine, and what is wanted of it; `more` goes over what host_info says."""
    address = f"192.0.2.{10 + number}"
    found = {
        "os": {"id": "debian", "version_id": "12", "codename": "bookworm", "pretty_name": "Debian GNU/Linux 12"},
        "python": "3.11.2",
        "machine_id": f"{number:032x}",
        "boot_id": f"boot-{number}",
        "hostname": f"core-{number:02}",
        "init": "systemd",
        "time": NOW,
        "addresses": [address, f"2001:db8::{number}", "fe80::1%eth0"],
        "listening": [
            {"proto": "tcp", "port": 22, "address": "0.0.0.0", "process": "sshd", "pid": 1, "unit": "ssh.service"}
        ],
    }
    return {
        "host": {**found, **more},
        "hostname": "",
        "addresses": {"etcd_address": address},
        "ports": [{"port": 2379, "unit": "etcd.service"}, {"port": 2380, "unit": "etcd.service", "proto": "tcp"}],
        "asked_at": NOW - 0.5,
        "answered_at": NOW + 0.5,
        "errors": [],
    }


def three() -> dict[str, dict[str, t.Any]]:
    return {f"core-{number:02}": host(number) for number in (1, 2, 3)}


def problems(hosts: dict[str, t.Any], **more: t.Any) -> list[str]:
    before = copy.deepcopy(hosts)
    found: list[str] = preflight_problems(hosts, **{"etcd_members": MEMBERS, "systems": SYSTEMS, **more})
    assert hosts == before, "a filter leaves its input alone"
    return found


def test_good_hosts_have_no_problem() -> None:
    assert problems(three()) == []


def test_our_own_units_may_hold_their_ports() -> None:
    hosts = three()
    hosts["core-01"]["host"]["listening"] += [
        {"proto": "tcp", "port": 2379, "address": "::", "process": "etcd", "pid": 9, "unit": "etcd.service"},
        {"proto": "udp", "port": 2380, "address": "::", "process": "other", "pid": 8, "unit": "other.service"},
    ]
    assert problems(hosts) == []


# --- one host -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"os": {"id": "fedora", "version_id": "41", "pretty_name": "Fedora Linux 41"}},
            "the operating system is Fedora Linux 41 (fedora 41); supported are: debian 12, 13; ubuntu 22.04, 24.04"
            " (bootstrap_systems).",
        ),
        (
            {"os": {"id": "debian", "version_id": "", "pretty_name": ""}},
            "the operating system is debian  (debian without version); supported are: debian 12, 13; ubuntu 22.04,"
            " 24.04 (bootstrap_systems).",
        ),
        (
            {"init": "runit"},
            "process 1 is runit, not systemd; fleet and the roles need a host booted with systemd.",
        ),
        (
            {"python": "3.8.10"},
            "Python is 3.8.10, but modules need 3.9 or newer; point ansible_python_interpreter at a newer one.",
        ),
        (
            {"machine_id": "0" * 32},
            f"the machine-id is '{'0' * 32}', but it must be 32 hexadecimal digits, not all zero; run"
            " 'rm -f /etc/machine-id && systemd-machine-id-setup' there and reboot it.",
        ),
        (
            {"machine_id": "uninitialized"},
            "the machine-id is 'uninitialized', but it must be 32 hexadecimal digits, not all zero; run"
            " 'rm -f /etc/machine-id && systemd-machine-id-setup' there and reboot it.",
        ),
        (
            {"hostname": "core_02"},
            "the name 'core_02' is no host name: each part must be 1 to 63 letters, digits or '-', and start and end"
            " with a letter or digit; set bootstrap_hostname or rename it.",
        ),
        (
            {"time": NOW + 37.4},
            "the clock is 37 s ahead of the controller's; at most 5 s are allowed (bootstrap_clock_tolerance)."
            " Set it, for example with 'timedatectl set-ntp true'.",
        ),
        (
            {"time": NOW - 60.5},
            "the clock is 60 s behind the controller's; at most 5 s are allowed (bootstrap_clock_tolerance)."
            " Set it, for example with 'timedatectl set-ntp true'.",
        ),
        (
            {"listening": [{"proto": "tcp", "port": 2379, "process": "nginx", "pid": 77, "unit": "nginx.service"}]},
            "tcp port 2379, which etcd.service needs, is used by nginx, process 77 of nginx.service; stop that or"
            " choose another port.",
        ),
        (
            {"listening": [{"proto": "tcp", "port": 2380, "process": "", "pid": 0, "unit": ""}]},
            "tcp port 2380, which etcd.service needs, is used by an unknown process; stop that or choose another port.",
        ),
    ],
)
def test_a_host_that_is_not_fine(change: dict[str, t.Any], sentence: str) -> None:
    hosts = three()
    hosts["core-02"]["host"].update(change)
    assert problems(hosts) == [f"core-02: {sentence}"]


@pytest.mark.parametrize("version", ["3.9", "3.9.0", "3.10.13", "3.13.0rc1", "4.0"])
def test_newer_pythons_are_fine(version: str) -> None:
    hosts = three()
    hosts["core-02"]["host"]["python"] = version
    assert problems(hosts) == []


@pytest.mark.parametrize("name", ["a", "A1", "core-02.example.org", "1", "192", "x" * 63])
def test_host_names_after_rfc_1123(name: str) -> None:
    hosts = three()
    hosts["core-02"]["hostname"] = name
    assert problems(hosts) == []


@pytest.mark.parametrize("name", ["-a", "a-", "a..b", "a_b", "x" * 64, "ä", "a b", "a.", ".".join(["x" * 60] * 5)])
def test_names_that_are_no_host_names(name: str) -> None:
    hosts = three()
    hosts["core-02"]["hostname"] = name
    (problem,) = problems(hosts)
    assert problem.startswith(f"core-02: the name {name!r} is no host name")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        (
            "10.0.0.300",
            "etcd_address '10.0.0.300' is not an IP address; give one like 192.0.2.11 or 2001:db8::11, without a port.",
        ),
        (
            "192.0.2.12:2380",
            "etcd_address '192.0.2.12:2380' is not an IP address; give one like 192.0.2.11 or 2001:db8::11,"
            " without a port.",
        ),
        (
            "192.0.2.99",
            "etcd_address '192.0.2.99' is not an address of the host (192.0.2.12, 2001:db8::2, fe80::1%eth0);"
            " set etcd_address to the one at which the other hosts reach it.",
        ),
        (
            "127.0.0.1",
            "etcd_address '127.0.0.1' cannot be reached by other hosts; give an address of its network card.",
        ),
        ("0.0.0.0", "etcd_address '0.0.0.0' cannot be reached by other hosts; give an address of its network card."),
        ("ff02::1", "etcd_address 'ff02::1' cannot be reached by other hosts; give an address of its network card."),
        ("fe80::1", "etcd_address 'fe80::1' cannot be reached by other hosts; give an address of its network card."),
        ("", "the address is not known: set etcd_address, or ansible_host to an IP address."),
    ],
)
def test_an_address_that_cannot_be(address: str, sentence: str) -> None:
    hosts = three()
    hosts["core-02"]["addresses"]["etcd_address"] = address
    assert problems(hosts) == [f"core-02: {sentence}"]


def test_one_wrong_address_in_two_variables_is_told_once() -> None:
    hosts = three()
    hosts["core-02"]["addresses"] = {"etcd_address": "127.0.0.1", "bootstrap_address": "127.0.0.1"}
    assert problems(hosts) == [
        "core-02: bootstrap_address and etcd_address '127.0.0.1' cannot be reached by other hosts;"
        " give an address of its network card."
    ]


def test_an_address_may_be_written_in_another_way() -> None:
    hosts = three()
    hosts["core-02"]["addresses"]["etcd_address"] = "2001:0DB8:0:0::2"
    assert problems(hosts) == []


def test_a_port_that_two_units_want() -> None:
    hosts = three()
    hosts["core-03"]["ports"].append({"port": "2379", "unit": "fleet.service"})
    assert problems(hosts) == [
        "core-03: tcp port 2379 is wanted by etcd.service and by fleet.service; give each a port of its own."
    ]


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_does_not_exist(port: int) -> None:
    hosts = three()
    hosts["core-03"]["ports"] = [{"port": port, "unit": "etcd.service", "proto": "udp"}]
    assert problems(hosts) == [f"core-03: udp port {port} for etcd.service does not exist; ports go from 1 to 65535."]


# --- hosts beside each other --------------------------------------------------------------------------------------


def test_a_cloned_machine() -> None:
    hosts = three()
    hosts["core-03"]["host"]["machine_id"] = hosts["core-02"]["host"]["machine_id"]
    assert problems(hosts) == [
        f"core-02, core-03: they share the machine-id {2:032x} (cloned image?). Run"
        " 'rm /etc/machine-id && systemd-machine-id-setup' on all but one of them and reboot it."
    ]


def test_a_machine_that_is_in_the_inventory_twice() -> None:
    hosts = three()
    hosts["core-03"]["host"].update(machine_id=f"{2:032x}", boot_id="boot-2")
    assert problems(hosts) == [
        f"core-02, core-03: they are one and the same machine (machine-id {2:032x}, same boot);"
        " check ansible_host and remove all but one from the inventory."
    ]


def test_names_that_differ_only_in_case() -> None:
    hosts = three()
    hosts["core-03"]["host"]["hostname"] = "CORE-02"
    assert problems(hosts) == [
        "core-02, core-03: they share the host name 'core-02'; set bootstrap_hostname for each, or rename them."
    ]
    hosts["core-03"]["hostname"] = "core-three"
    assert problems(hosts) == []
    hosts["CORE-02"] = host(4)
    assert problems(hosts) == [
        "core-02, CORE-02: their names in the inventory differ only in case (core-02); rename all but one."
    ]


def test_one_address_for_two_hosts_is_told_once() -> None:
    hosts = three()
    for name in ("core-02", "core-03"):
        hosts[name]["addresses"] = {"etcd_address": "192.0.2.12", "pki_address": "192.0.2.12"}
        hosts[name]["host"]["addresses"] = ["192.0.2.12"]
    assert problems(hosts) == [
        "core-02, core-03: they have the same etcd_address and pki_address, 192.0.2.12; give each its own."
    ]


def test_hosts_with_the_same_problem_share_a_sentence() -> None:
    hosts = three()
    for name in ("core-01", "core-03"):
        hosts[name]["errors"] = ["value of docker_restart must be one of: auto, defer, never, got: perhaps"]
    assert problems(hosts) == [
        "core-01, core-03: value of docker_restart must be one of: auto, defer, never, got: perhaps"
    ]


# --- clocks -------------------------------------------------------------------------------------------------------


def test_a_slow_answer_is_no_proof_of_a_wrong_clock() -> None:
    hosts = three()
    hosts["core-02"].update(asked_at=NOW - 60, answered_at=NOW + 60)
    hosts["core-02"]["host"]["time"] = NOW - 59
    assert problems(hosts) == []


def test_the_tolerance_counts() -> None:
    hosts = three()
    hosts["core-02"]["host"]["time"] = NOW + 9
    assert problems(hosts, clock_tolerance=10) == []
    assert len(problems(hosts, clock_tolerance=8)) == 1


@pytest.mark.parametrize(("shift", "relation"), [(100, "behind"), (-100, "ahead of")])
def test_when_all_agree_the_controller_is_wrong(shift: float, relation: str) -> None:
    hosts = three()
    for number, entry in enumerate(hosts.values()):
        entry["host"]["time"] = NOW + shift + number
    (problem,) = problems(hosts)
    assert problem.startswith("The controller's clock is ")
    assert f" s {relation} those of all hosts, which agree with each other" in problem


def test_one_host_alone_does_not_outvote_the_controller() -> None:
    (problem,) = problems({"core-01": host(1, time=NOW + 100)})
    assert problem.startswith("core-01: the clock is ")


def test_hosts_without_clock_readings_are_not_judged() -> None:
    hosts = three()
    for entry in hosts.values():
        del entry["asked_at"], entry["answered_at"]
    assert problems(hosts) == []


# --- etcd ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "sentence"),
    [
        (1, None),
        (3, None),
        (5, None),
        (7, None),
        (
            2,
            "The group 'etcd' has 2 hosts, and 2 etcd members tolerate no failure, no more than 1 would;"
            " use 1 or 3, or set etcd_allow_even.",
        ),
        (
            4,
            "The group 'etcd' has 4 hosts, and 4 etcd members tolerate 1 failure, no more than 3 would;"
            " use 3 or 5, or set etcd_allow_even.",
        ),
        (
            6,
            "The group 'etcd' has 6 hosts, and 6 etcd members tolerate 2 failures, no more than 5 would;"
            " use 5 or 7, or set etcd_allow_even.",
        ),
        (
            0,
            "The inventory has no host in the group 'etcd', so there would be no etcd; put 1, 3 or 5 hosts in it,"
            " or name another group in etcd_group.",
        ),
    ],
)
def test_the_number_of_members(count: int, sentence: str | None) -> None:
    members = [f"m{number}" for number in range(count)]
    assert problems(three(), etcd_members=members) == ([sentence] if sentence else [])
    allowed = problems(three(), etcd_members=members, etcd_allow_even=True)
    assert allowed == ([sentence] if count == 0 else [])
    assert problems(three(), etcd_members=members, etcd_group="") == []


# --- all at once --------------------------------------------------------------------------------------------------


def test_everything_is_named_at_once() -> None:
    hosts = three()
    hosts["core-01"]["host"].update(init="runit", python="3.6.8")
    hosts["core-02"]["host"].update(hostname="core-01", time=NOW + 100)
    hosts["core-03"]["addresses"]["etcd_address"] = "nowhere"
    found = problems(hosts, etcd_members=["core-01", "core-02"])
    assert len(found) == 6
    for part in ("2 etcd members", "share the host name", "the clock", "process 1", "Python is 3.6.8", "'nowhere'"):
        assert sum(part in problem for problem in found) == 1, part
    assert not any("\n" in problem for problem in found)


@pytest.mark.parametrize("broken", [[], {"a": 1}, {"a": {}}, {"a": {"host": {}}}, {"a": {"host": {"os": None}}}])
def test_input_of_another_form_is_an_error_and_no_traceback(broken: t.Any) -> None:
    with pytest.raises(AnsibleFilterError, match="preflight_problems"):
        preflight_problems(broken)
