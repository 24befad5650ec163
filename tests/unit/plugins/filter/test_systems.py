# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What roles decide on each system: whether it is accepted, by which Python, and which packages it is asked for.

C(recorded) systems: os-release is that of the release's package base-files, and the versions are those of its archive
on the day when this was written. All others are written from documentation; nobody has seen such a machine here.
"""

from __future__ import annotations

import typing as t
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.flotilla.cluster.plugins.action.python_push import choose, read_probe
from ansible_collections.flotilla.cluster.plugins.filter.preflight_problems import preflight_problems
from ansible_collections.flotilla.cluster.plugins.module_utils._host_facts import parse_os_release

ROLES = Path(__file__).resolve().parents[4] / "roles"
OURS = "/opt/flotilla/python"
NOW = 1_800_000_000.0


class System(t.NamedTuple):
    """os-release, the version of Python and where it is ("" for none), the archive's packages as far as known."""

    release: str
    python: str
    path: str = "/usr/bin/python3"
    recorded: bool = False
    archive: t.Mapping[str, str] = {}


def debian(number: int, name: str, python: str, **archive: str) -> System:
    release = (
        f'PRETTY_NAME="Debian GNU/Linux {number} ({name})"\nNAME="Debian GNU/Linux"\nVERSION_ID="{number}"\n'
        f'VERSION="{number} ({name})"\nVERSION_CODENAME={name}\nID=debian\n'
    )
    return System(
        release,
        python,
        recorded=True,
        archive={"docker.io" if key == "docker_io" else key.replace("_", "-"): one for key, one in archive.items()},
    )


def ubuntu(number: str, name: str, python: str) -> System:
    release = (
        f'PRETTY_NAME="Ubuntu {number} LTS"\nNAME="Ubuntu"\nVERSION_ID="{number}"\nVERSION_CODENAME={name}\nID=ubuntu\n'
        "ID_LIKE=debian\n"
    )
    return System(release, python)


def other(id_: str, number: str, pretty: str, python: str, path: str = "/usr/bin/python3") -> System:
    return System(f'NAME="{pretty}"\nID="{id_}"\nVERSION_ID="{number}"\nPRETTY_NAME="{pretty}"\n', python, path)


SYSTEMS = {
    "debian-11": debian(
        11, "bullseye", "3.9.2", docker_io="20.10.5", etcd_server="3.3.25", etcd_client="3.3.25", iptables="1.8.7",
        busybox_static="1.30.1", python3_aiohttp="3.7.4", python3_cryptography="3.3.2",
    ),
    "debian-12": debian(
        12, "bookworm", "3.11.2", docker_io="20.10.24", etcd_server="3.4.23", etcd_client="3.4.23", iptables="1.8.9",
        busybox_static="1.35.0", python3_aiohttp="3.8.4", python3_cryptography="38.0.4", python3_dbus_fast="1.84.2",
    ),
    "debian-13": debian(
        13, "trixie", "3.13.5", docker_io="26.1.5", docker_cli="26.1.5", etcd_server="3.5.16", etcd_client="3.5.16",
        iptables="1.8.11", busybox_static="1.37.0", python3_aiohttp="3.11.16", python3_cryptography="43.0.0",
        python3_dbus_fast="2.44.1",
    ),
    "ubuntu-22.04": ubuntu("22.04", "jammy", "3.10.12"),
    "ubuntu-24.04": ubuntu("24.04", "noble", "3.12.3"),
    "ubuntu-26.04": ubuntu("26.04", "resolute", "3.14.3"),
    "fedora-42": other("fedora", "42", "Fedora Linux 42 (Server Edition)", "3.13.3"),
    "rhel-9": other("rhel", "9.4", "Red Hat Enterprise Linux 9.4 (Plow)", "3.9.18"),
    "rocky-9": other("rocky", "9.5", "Rocky Linux 9.5 (Blue Onyx)", "3.9.21", "/usr/libexec/platform-python"),
    "almalinux-10": other("almalinux", "10.0", "AlmaLinux 10.0 (Purple Lion)", "3.12.9"),
    "flatcar": other("flatcar", "4230.2.0", "Flatcar Container Linux by Kinvolk 4230.2.0 (Oklo)", "", ""),
}  # fmt: skip
ACCEPTED = ["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]


def variables(role: str, name: str, **given: t.Any) -> dict[str, t.Any]:
    """Variables of a role on a system, as Ansible merges them."""
    loader = DataLoader()
    found: dict[str, t.Any] = {}
    for kind in ("defaults", "vars"):
        path = str(ROLES / role / kind / "main.yml")
        found.update(loader.load_from_file(path, trusted_as_template=True))
    return {**found, "__flotilla_host": {"os": parse_os_release(SYSTEMS[name].release), "packages": {}}, **given}


def value(role: str, variable: str, name: str, **given: t.Any) -> t.Any:
    """A variable of a role on a system."""
    known = variables(role, name, **given)
    return Templar(loader=DataLoader(), variables=known).template(known[variable])


def problems(name: str) -> list[str]:
    """What role bootstrap says of a host of that system where all else is fine."""
    host = {
        "os": parse_os_release(SYSTEMS[name].release),
        "python": SYSTEMS[name].python or "3.13.5",
        "machine_id": f"{1:032x}",
        "boot_id": "boot-1",
        "hostname": "core-01",
        "init": "systemd",
        "time": NOW,
        "addresses": ["192.0.2.11"],
        "listening": [],
    }
    entry = {"host": host, "addresses": {"etcd_address": "192.0.2.11"}, "asked_at": NOW, "answered_at": NOW}
    systems = value("bootstrap", "bootstrap_systems", name)
    lowest = value("bootstrap", "__bootstrap_python", name)
    return preflight_problems({"core-01": entry}, etcd_members=["core-01"], systems=systems, python=lowest)


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_is_accepted(name: str) -> None:
    assert problems(name) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("debian-11", "Debian GNU/Linux 11 (bullseye) (debian 11)"),
        ("ubuntu-26.04", "Ubuntu 26.04 LTS (ubuntu 26.04)"),
        ("fedora-42", "Fedora Linux 42 (Server Edition) (fedora 42)"),
        ("rhel-9", "Red Hat Enterprise Linux 9.4 (Plow) (rhel 9.4)"),
        ("rocky-9", "Rocky Linux 9.5 (Blue Onyx) (rocky 9.5)"),
        ("almalinux-10", "AlmaLinux 10.0 (Purple Lion) (almalinux 10.0)"),
        ("flatcar", "Flatcar Container Linux by Kinvolk 4230.2.0 (Oklo) (flatcar 4230.2.0)"),
    ],
)
def test_it_is_refused_in_one_sentence(name: str, shown: str) -> None:
    assert problems(name) == [
        f"core-01: the operating system is {shown}; supported are: debian 12, 13; ubuntu 22.04, 24.04"
        " (bootstrap_systems)."
    ]


def test_every_system_is_judged_by_one_of_the_two() -> None:
    assert {name for name in SYSTEMS if not problems(name)} == set(ACCEPTED)


@pytest.mark.parametrize("name", SYSTEMS)
def test_modules_run_by_the_systems_own_python_and_only_flatcar_needs_another(name: str) -> None:
    system = SYSTEMS[name]
    said = f"python {system.path} {system.python}\ntools\n" if system.path else "tools\n"
    lowest = value("bootstrap", "__bootstrap_python", name)
    assert choose(read_probe(said), OURS, lowest, "") == system.path
    assert bool(system.path) == (name != "flatcar")


@pytest.mark.parametrize(
    ("name", "cli"),
    [(name, ["docker-cli"] if name == "debian-13" else []) for name in SYSTEMS if name[:3] in ("deb", "ubu")],
)
def test_the_command_of_docker_is_asked_for_where_it_is_a_package(name: str, cli: list[str]) -> None:
    assert value("docker", "docker_packages", name) == ["docker.io", "iptables", *cli, "busybox-static"]
    assert value("docker", "docker_packages", name, docker_repository_url="https://mirror.example/docker/debian") == [
        "iptables",
        "busybox-static",
    ]
    codename = parse_os_release(SYSTEMS[name].release)["codename"]
    assert value("docker", "docker_repository_suite", name) == codename


@pytest.mark.parametrize(
    ("installed", "refused"),
    [
        ((), []),
        (("docker.io",), []),
        (("docker-ce", "docker-ce-cli"), ["docker-ce"]),
        (("podman-docker",), ["podman-docker"]),
    ],
)
def test_another_engine_is_not_replaced_under_its_containers(installed: tuple[str, ...], refused: list[str]) -> None:
    host = {"os": parse_os_release(SYSTEMS["debian-12"].release), "packages": dict.fromkeys(installed, "1")}
    said = value("docker", "__docker_stranger_problems", "debian-12", __flotilla_host=host)
    assert [sentence.split(" is installed, ")[0] for sentence in said] == [f"the package {name}" for name in refused]


def asked_for(name: str) -> set[str]:
    """All packages of the distribution that site.yml may ask a host for."""
    return {
        *value("docker", "docker_packages", name),
        *value("etcd", "etcd_packages", name, __etcd_release=False, __etcd_undecided=False),
        *value("fleet", "fleet_packages", name),
        *value("pki", "pki_packages", name),
    }


def test_the_archive_of_each_recorded_system_that_is_accepted_has_all_packages() -> None:
    recorded = [name for name in ACCEPTED if SYSTEMS[name].recorded]
    assert recorded == ["debian-12", "debian-13"]
    for name in recorded:
        assert asked_for(name) - set(SYSTEMS[name].archive) == set(), name


def test_debian_11_is_refused_for_what_its_archive_lacks() -> None:
    assert asked_for("debian-11") - set(SYSTEMS["debian-11"].archive) == {"python3-dbus-fast"}
    assert SYSTEMS["debian-11"].archive["etcd-server"].startswith("3.3.")
