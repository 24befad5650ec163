# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode on fresh hosts has left them as they were."""

from __future__ import annotations

from testinfra.host import Host

# What a system writes by itself, and what any module call leaves: Ansible's folder for temporary files, and the log.
OWN = ("/var/log", "/var/lib/systemd", "/var/tmp", "/tmp", "/root/.ansible", "/run", "/proc", "/sys", "/dev")


def test_mark_works(host: Host) -> None:
    """A file made after the mark is found, else the next test would not see anything either."""
    host.check_output("touch /etc/molecule-probe")
    found = host.check_output("find /etc -xdev ! -type d -cnewer /run/molecule-mark")
    host.check_output("rm /etc/molecule-probe")
    assert found == "/etc/molecule-probe"


def test_no_file_has_changed(host: Host) -> None:
    pruned = " -o ".join(f"-path {path}" for path in OWN)
    # folders are left out: the probe above changed /etc, and a file that is new or gone is what counts
    changed = host.check_output(rf"find / -xdev \( {pruned} \) -prune -o ! -type d -cnewer /run/molecule-mark -print")
    assert changed == ""


def test_nothing_of_ours_is_there(host: Host) -> None:
    for path in ("/etc/flotilla", "/etc/fleet", "/usr/lib/flotilla", "/opt/flotilla", "/run/flotilla", "/var/lib/etcd"):
        assert not host.file(path).exists, path
    for package in ("etcd-server", "docker.io", "python3-aiohttp"):
        assert not host.package(package).is_installed, package
