# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every Debian package that local hosts need, on the machine itself and inside the images."""

from __future__ import annotations

#: On the machine that runs the hosts.
MACHINE = (
    "ca-certificates",
    "debian-archive-keyring",
    "debootstrap",
    "iproute2",
    "iptables",
    "nftables",  # partitions are cut on the bridge, which iptables does not see on every kernel
    "openssh-client",
    "systemd-container",
    "util-linux",
)

#: In the base image: what a small Debian server has before any role runs.
SYSTEM = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "iptables",
    "iputils-ping",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",  # without it Ansible's apt module installs it first, which no server image needs
    "systemd",
    "systemd-sysv",
)

#: What the roles install: downloaded in the layer ``cached``, installed in the layer ``installed``.
ROLES = (
    "busybox-static",
    "ca-certificates",
    "docker.io",
    "etcd-client",
    "etcd-server",
    "iptables",
    "python3-aiohttp",
    "python3-cryptography",
    "python3-dbus-fast",
    "python3-requests",
)

#: Services that those packages enable and that a role has to start itself.
ROLE_SERVICES = ("containerd.service", "docker.service", "docker.socket", "etcd.service")

#: What reads user-data at the first boot, installed in the layer ``cloud``.
CLOUD = ("cloud-init",)
