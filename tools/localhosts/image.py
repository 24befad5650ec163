# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What hosts share: a Debian system, a layer with the roles' packages downloaded, one with
them installed, one with cloud-init on top."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import aptsources, packages, render
from .plan import HostsError, recipe_hash
from .system import Progress, locked, remove_tree, run, run_logged, tail, write_file

BASE = Path("/var/cache/flotilla/base")
CHOICES = ("cached", "installed", "cloud", "vagrant", "netboot", "libvirt")

_UNUSED_DAYS = 14
_LOCK_TIMEOUT = 1800.0

# Inside an image. Daemons must not start while packages are configured, and a build that is killed need not survive a
# power failure, so dpkg may leave out its fsyncs.
_APT = (
    "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8; apt() {"
    ' apt-get -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io --no-install-recommends "$@"; }; '
)

# The same with lists of packages that are not older than an hour.
_APT_FRESH = (
    _APT
    + r"""
if [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mmin -60)" ]; then apt update; fi
"""
)

_SYSTEM_SCRIPT = (
    _APT
    + r"""
if command -v update-ca-certificates; then update-ca-certificates; fi  # debootstrap installs it for https archives
apt update
apt dist-upgrade
apt install PACKAGES
update-ca-certificates
apt-get clean
systemctl enable systemd-networkd.service ssh.service
# No timer may start apt behind a play's back, and nobody looks at a console.
systemctl mask apt-daily.timer apt-daily-upgrade.timer console-getty.service
# Each host gets its own.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /etc/hostname
: > /etc/machine-id
mkdir -p /var/log/journal /etc/systemd/journald.conf.d
printf '[Journal]\nSystemMaxUse=64M\n' > /etc/systemd/journald.conf.d/50-local.conf
echo 'LANG=C.UTF-8' > /etc/default/locale
apt-cache gencaches
"""
)

_CACHED_SCRIPT = (
    _APT_FRESH
    + r"""apt install --download-only PACKAGES
apt-cache gencaches
"""
)

_INSTALLED_SCRIPT = (
    _APT
    + r"""
apt install --no-download PACKAGES
systemctl disable SERVICES
# What the packages' own configuration would have started with; roles bring theirs.
find /var/lib/etcd /var/lib/docker /var/lib/containerd -mindepth 1 -delete 2>/dev/null || :
apt-cache gencaches
"""
)

# A machine that reads what it shall be at its first boot. Access to it is the tools' own: keys and network stay.
_CLOUD_SCRIPT = (
    _APT_FRESH
    + r"""apt install PACKAGES
printf '%s\n' 'datasource_list: [NoCloud, ConfigDrive, None]' 'ssh_deletekeys: false' 'disable_root: false' \
    'apt_preserve_sources_list: true' > /etc/cloud/cloud.cfg.d/90-local.cfg
apt-cache gencaches
"""
)

# For what is packed as a whole.
_SLIM = (
    "rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/*.bin /var/lib/apt/lists/* /usr/share/doc/* /usr/share/man/* "
    "\\\n    /usr/share/locale/*\n"
)

# What Vagrant expects of a box: its user, who may become root, and its public key, which it replaces at the first boot.
_VAGRANT_USER = r"""apt install PACKAGES
id vagrant || useradd --create-home --shell /bin/bash vagrant
install -d -m 0700 -o vagrant -g vagrant /home/vagrant/.ssh
echo 'KEY' > /home/vagrant/.ssh/authorized_keys
chown vagrant:vagrant /home/vagrant/.ssh/authorized_keys
chmod 0600 /home/vagrant/.ssh/authorized_keys
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/vagrant
chmod 0440 /etc/sudoers.d/vagrant
# Each machine makes keys of its own, before sshd starts.
printf '%s\n' '[Service]' ExecStartPre= 'ExecStartPre=/usr/bin/ssh-keygen -A' \
    'ExecStartPre=/usr/sbin/sshd -t' > /run/keys.conf
install -D -m 0644 /run/keys.conf /etc/systemd/system/ssh.service.d/10-keys.conf
"""

_VAGRANT_SCRIPT = (
    _APT_FRESH
    + _VAGRANT_USER
    + r"""# LXC gives the address.
systemctl mask systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service
rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
"""
)

# A machine with a disk of its own, and the initramfs that writes that disk: one kernel and one initramfs for both.
_NETBOOT_SCRIPT = (
    _APT_FRESH
    + r"""mkdir -p /etc/initramfs-tools/conf.d
# What an installer may meet, and what bonds and VLANs are made of.
printf '%s\n' bonding 8021q > /etc/initramfs-tools/modules
printf 'MODULES=most\nCOMPRESS=gzip\n' > /etc/initramfs-tools/conf.d/local
apt install PACKAGES
printf 'LABEL=flotilla / ext4 errors=remount-ro 0 1\n' > /etc/fstab
# Without a search for documents, which takes longer on a slow machine than systemd waits for it.
echo 'policy: enabled' > /etc/cloud/ds-identify.cfg
# It goes through the network as a whole.
"""
    + _SLIM
)

# A machine with a disk of its own that Vagrant brings up. Its first card gets an address from the network, the others
# from Vagrant, never from cloud-init: libvirt knows a machine by its card.
_LIBVIRT_SCRIPT = (
    _APT_FRESH
    + r"""mkdir -p /etc/initramfs-tools/conf.d
printf 'MODULES=most\nCOMPRESS=gzip\n' > /etc/initramfs-tools/conf.d/local
"""
    + _VAGRANT_USER
    + r"""printf 'LABEL=flotilla / ext4 errors=remount-ro 0 1\n' > /etc/fstab
echo 'policy: enabled' > /etc/cloud/ds-identify.cfg
echo 'network: {config: disabled}' > /etc/cloud/cloud.cfg.d/91-network.cfg
printf '%s\n' '[Match]' Name=eth0 '[Network]' DHCP=ipv4 IPv6AcceptRA=no LinkLocalAddressing=no '[DHCPv4]' \
    ClientIdentifier=mac > /etc/systemd/network/90-eth0.network
"""
    + _SLIM
)


@dataclass(frozen=True)
class Image:
    """One layer: ``parts`` is its recipe, ``key`` the recipe's hash, ``below`` the layers under it, lowest first."""

    kind: str
    key: str
    below: tuple[str, ...]
    parts: Mapping[str, Any]

    @property
    def directory(self) -> Path:
        """Where the finished layer is; its files are in ``root/``."""
        return BASE / self.key


def root_of(key: str) -> Path:
    """The files of a layer."""
    return BASE / key / "root"


def lower_of(keys: Sequence[str]) -> str:
    """Layers, the lowest first, as an overlay takes them."""
    return ":".join(str(root_of(key)) for key in reversed(keys))


@dataclass(frozen=True)
class Origin:
    """What of this machine goes into an image, besides packages and scripts."""

    suite: str
    architecture: str
    sources: tuple[aptsources.Source, ...]
    apt_options: str
    authorities: tuple[tuple[str, str], ...]


def read_origin(suite: str | None) -> Origin:
    """Read the machine's own configuration.

    Raises HostsError when the machine is not Debian or has no usable archive.
    """
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    name, codename = (shlex.split(release.get(field, ""))[:1] for field in ("ID", "VERSION_CODENAME"))
    if name != ["debian"] or not codename:
        raise HostsError(f"local hosts need a machine with Debian 12 or newer and /etc/os-release says ID={name}")
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    texts = {str(path): path.read_text() for path in files if path.suffix in (".list", ".sources") and path.is_file()}
    wanted = suite or codename[0]
    authorities = sorted(Path("/usr/local/share/ca-certificates").glob("*.crt"))
    return Origin(
        suite=wanted,
        architecture=run("dpkg", "--print-architecture").strip(),
        sources=tuple(aptsources.distribution(aptsources.parse(texts), codename[0], wanted)),
        apt_options=aptsources.image_options(run("apt-config", "dump")),
        authorities=tuple((path.name, path.read_text()) for path in authorities),
    )


def recipes(origin: Origin) -> dict[str, Image]:
    """The layers by kind, each with the hash of everything it is made from."""
    system = {
        "kind": "system",
        "suite": origin.suite,
        "architecture": origin.architecture,
        "sources": [source.line() for source in origin.sources],
        "apt_options": origin.apt_options,
        "authorities": origin.authorities,
        "packages": packages.SYSTEM,
        "script": _SYSTEM_SCRIPT,
    }
    images: dict[str, Image] = {}
    below: tuple[str, ...] = ()
    last = {
        "vagrant": {"packages": packages.VAGRANT, "script": _VAGRANT_SCRIPT.replace("KEY", packages.VAGRANT_KEY)},
        "netboot": {"packages": packages.NETBOOT, "script": _NETBOOT_SCRIPT},
        "libvirt": {
            "packages": packages.VAGRANT + packages.LIBVIRT + packages.NETBOOT,
            "script": _LIBVIRT_SCRIPT.replace("KEY", packages.VAGRANT_KEY),
        },
    }
    for parts in (
        system,
        {"kind": "cached", "packages": packages.ROLES, "script": _CACHED_SCRIPT},
        {
            "kind": "installed",
            "packages": packages.ROLES,
            "services": packages.ROLE_SERVICES,
            "script": _INSTALLED_SCRIPT,
        },
        {"kind": "cloud", "packages": packages.CLOUD, "script": _CLOUD_SCRIPT},
    ):
        key = recipe_hash({"below": below, **parts})
        images[str(parts["kind"])] = Image(str(parts["kind"]), key, below, parts)
        below = (*below, key)
    for kind, rest in last.items():
        parts = {"kind": kind, **rest}
        images[kind] = Image(kind, recipe_hash({"below": below, **parts}), below, parts)
    return images


def ensure_machine_packages(progress: Progress) -> None:
    """Install what this program needs on the machine itself, if something is missing."""
    states = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n").splitlines()
    installed = {name for name, _space, state in (line.partition(" ") for line in states) if state == "installed"}
    missing = sorted(set(packages.MACHINE) - installed)
    if not missing:
        return
    log = BASE / "machine-packages.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    log.write_text("")
    apt = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-y",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Dpkg::Use-Pty=0",
    ]
    install = [*apt, "install", "--no-install-recommends", *missing]

    def update() -> None:
        with progress.step("fetching the machine's package lists", log):
            run_logged([*apt, "update"], log, "apt-get update")

    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        update()
    title = f"installing on this machine: {' '.join(missing)}"
    try:
        with progress.step(title, log):
            run_logged(install, log, "apt-get install")
    except HostsError:
        # Lists that are older than the archive name files that are gone.
        update()
        with progress.step(title, log):
            run_logged(install, log, "apt-get install")


def ensure(progress: Progress, kind: str, suite: str | None = None, rebuild: bool = False) -> tuple[str, ...]:
    """Build what is missing of the layers up to ``kind`` and return their hashes, lowest first."""
    origin = read_origin(suite)
    images = recipes(origin)
    wanted = images[kind]
    chain = [image for image in images.values() if image.key in (*wanted.below, wanted.key)]
    if rebuild or not all(image.directory.exists() for image in chain):
        BASE.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(BASE / ".lock", progress, "the base image", _LOCK_TIMEOUT):
            for leftover in BASE.glob(".building-*"):
                remove_tree(leftover)
            for image in chain:
                if rebuild or not image.directory.exists():
                    _build(progress, image, origin)
    for image in chain:
        os.utime(image.directory)
    return tuple(image.key for image in chain)


def prune(progress: Progress, used: Iterable[str]) -> None:
    """Remove layers that no cluster uses and that no run has asked for in two weeks."""
    keep = set(used)
    limit = time.time() - _UNUSED_DAYS * 86400
    for path in BASE.glob("[0-9a-f]*"):
        if path.name not in keep and path.is_dir() and path.stat().st_mtime < limit:
            progress.say(f"removing the base layer {path.name}, which was not used for {_UNUSED_DAYS} days")
            remove_tree(path)


def _build(progress: Progress, image: Image, origin: Origin) -> None:
    work = BASE / f".building-{image.key}"
    root = work / "root"
    log = work / "build.log"
    root.mkdir(parents=True)
    work.chmod(0o755)
    try:
        title = f"base image, layer {image.kind} ({image.key})"
        if image.kind == "system":
            _debootstrap(progress, root, log, origin)
        else:
            (work / "overlay").mkdir()
        script = image.parts["script"].replace("PACKAGES", " ".join(image.parts["packages"]))
        script = script.replace("SERVICES", " ".join(image.parts.get("services", ())))
        policy = root / "usr/sbin/policy-rc.d"
        resolver = root / "etc/resolv.conf"
        write_file(policy, "#!/bin/sh\nexit 101\n", 0o755)
        write_file(resolver, machine_resolver())
        with progress.step(title, log):
            run_logged(_inside(work, image.below, script), log, title)
        policy.unlink()
        resolver.unlink()
        with contextlib.suppress(FileNotFoundError):
            (work / "overlay").rmdir()
        remove_tree(work / "work")
        (work / "recipe.json").write_text(json.dumps(image.parts, indent=1, sort_keys=True))
        if image.directory.exists():  # asked to build again
            remove_tree(image.directory)
        work.rename(image.directory)
    except HostsError:
        (BASE / "failed.log").write_text("\n".join(tail(log, 400)))
        remove_tree(work)
        raise


def _debootstrap(progress: Progress, root: Path, log: Path, origin: Origin) -> None:
    release = origin.sources[0]
    argv = ["debootstrap", "--variant=minbase", f"--arch={origin.architecture}"]
    if release.signed_by:
        argv.append(f"--keyring={release.signed_by}")
    if release.uri.startswith("https:"):
        argv.append("--include=ca-certificates")
    argv += [origin.suite, str(root), release.uri]
    with progress.step(f"base image, Debian {origin.suite} with debootstrap", log):
        run_logged(["unshare", "--mount", "--pid", "--fork", "--kill-child", *argv], log, "debootstrap")
    (root / "etc/apt/sources.list").write_text("".join(f"{source.line()}\n" for source in origin.sources))
    options = origin.apt_options + 'Acquire::Languages "none";\n'
    write_file(root / "etc/apt/apt.conf.d/90local", options)
    for name, text in origin.authorities:
        write_file(root / "usr/local/share/ca-certificates" / name, text)


def _inside(work: Path, below: Sequence[str], script: str) -> list[str]:
    """A command that runs a script in a layer; its mounts and processes end with it, as its namespaces are its own."""
    root = str(work / "root")
    if below:
        (work / "work").mkdir()
        mounted = str(work / "overlay")
        options = f"lowerdir={lower_of(below)},upperdir={root},workdir={work / 'work'}"
        prepare = f"mount -t overlay overlay -o {shlex.quote(options)} {shlex.quote(mounted)}; "
    else:
        mounted = root
        prepare = ""
    prepare += f"mount -t proc proc {shlex.quote(mounted)}/proc; "
    prepare += f"exec chroot {shlex.quote(mounted)} /bin/sh -euxc {shlex.quote(script)}"
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", prepare]


def machine_resolver() -> str:
    """resolv.conf for hosts: the machine's name servers, behind systemd-resolved's stub when there is one."""
    texts = []
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        with contextlib.suppress(OSError):
            texts.append(Path(path).read_text())
    return render.resolv_conf(texts)
