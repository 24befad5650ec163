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
    "haproxy",
    "iptables",
    "python3-aiohttp",
    "python3-cryptography",
    "python3-dbus-fast",
    "python3-requests",
)

#: Services that those packages enable and that a role has to start itself.
ROLE_SERVICES = ("containerd.service", "docker.service", "docker.socket", "etcd.service", "haproxy.service")

#: What reads user-data at the first boot, installed in the layer ``cloud``.
CLOUD = ("cloud-init",)

#: What Vagrant's box has beside that.
VAGRANT = ("sudo",)

#: What a box for libvirt has more: Vagrant names a machine late, and sudo asks for that name each time.
LIBVIRT = ("libnss-myhostname",)

#: What a machine needs that boots by itself: a kernel, what finds its disk, and what makes its partition larger.
NETBOOT = (
    "busybox-static",
    "cloud-guest-utils",
    "e2fsprogs",
    "fdisk",
    "initramfs-tools",
    "kmod",
    "linux-image-cloud-amd64",
    "udev",
)

#: What boots it: run on the machine that makes the image, whose disk is a file there.
BOOT_LOADER = ("e2fsprogs", "grub-common", "grub-pc-bin")

#: The public key that every box of Vagrant begins with, its comment included. Everybody has its private half; Vagrant
#: replaces it at the first boot (``config.ssh.insert_key``), which it finds by this very line.
VAGRANT_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v"
    "1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4"
    "O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk"
    "1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure pu"
    "blic key"
)
