# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make Vagrant's box for LXC or libvirt from the image of local hosts: ``python3 tools/vagrant_box.py FILE``."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from localhosts import cluster, disk, packages
from localhosts.system import Progress, install, run, status_of

#: What the disk of a libvirt machine is enlarged to at its first boot.
DISK_GIB = 10

#: How LXC runs it: a whole system with systemd, whose address and bridge the Vagrantfile adds.
LXC_CONFIG = """\
lxc.include = /usr/share/lxc/config/common.conf
lxc.arch = linux64
lxc.signal.halt = SIGRTMIN+4
lxc.mount.auto = proc:rw sys:rw cgroup:rw:force
lxc.apparmor.profile = unconfined
lxc.cap.drop =
lxc.net.0.type = veth
lxc.net.0.flags = up
"""

LIBVIRT_VAGRANTFILE = """\
Vagrant.configure('2') do |config|
  config.vm.provider(:libvirt) { |libvirt| libvirt.disk_bus = 'virtio' }
end
"""


def build(target: Path, provider: str, progress: Progress) -> None:
    """Make the box, unless it is of these very layers already. Raises HostsError."""
    kind, pack = PROVIDERS[provider]
    layers = cluster.ensure_image(kind, None, False, progress)
    wanted = " ".join((*layers, disk.recipe_of(Path(__file__))))
    stamp = target.with_suffix(".layers")
    if target.exists() and stamp.exists() and stamp.read_text() == wanted:
        progress.say(f"{target} is there already")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".box-", dir=target.parent) as work, progress.step(f"packing {target}"):
        folder = Path(work)
        files = pack(folder, layers)
        draft = folder / "box"
        run("tar", "-cf", str(draft), "-C", work, *files, timeout=300)
        draft.replace(target)
    stamp.write_text(wanted)


def _lxc(folder: Path, layers: Sequence[str]) -> list[str]:
    metadata = {"provider": "lxc", "version": "1.0.0", "template-opts": {"--strip-components": "1"}}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "lxc-config").write_text(LXC_CONFIG)
    with disk.mounted(layers, folder) as root:
        pack = ["tar", "--numeric-owner", "--xattrs", "-I", "gzip -1", "-cf", str(folder / "rootfs.tar.gz")]
        run(*pack, "-C", str(folder), "--transform", "s,^root,rootfs,S", root.name, timeout=900)
    return ["metadata.json", "lxc-config", "rootfs.tar.gz"]


def _libvirt(folder: Path, layers: Sequence[str]) -> list[str]:
    install(*packages.BOOT_LOADER, "qemu-utils")
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GIB}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "Vagrantfile").write_text(LIBVIRT_VAGRANTFILE)
    raw, box = folder / "disk.img", folder / "box.img"
    with disk.mounted(layers, folder) as root:
        # Cards are named in their order: Vagrant configures eth1.
        disk.write(raw, root, "net.ifnames=0 biosdevname=0")
    run("qemu-img", "convert", "-O", "qcow2", "-c", str(raw), str(box), timeout=900)
    run("qemu-img", "resize", "-q", str(box), f"{DISK_GIB}G")
    raw.unlink()
    return ["metadata.json", "Vagrantfile", "box.img"]


#: The image that a box is made of, and what packs it; returns the names of the box's files.
PROVIDERS = {"lxc": ("vagrant", _lxc), "libvirt": ("libvirt", _libvirt)}


def main() -> int:
    """Run; 0 when the box is there."""
    parser = argparse.ArgumentParser(prog="vagrant_box.py", description=__doc__)
    parser.add_argument("file", type=Path, help="the box, such as vagrant/boxes/flotilla-debian-lxc.box")
    parser.add_argument("--provider", choices=PROVIDERS, default="lxc", help="what runs it (%(default)s)")
    options = parser.parse_args()
    return status_of(parser.prog, lambda: build(options.file.absolute(), options.provider, Progress()), by_root=True)


if __name__ == "__main__":
    sys.exit(main())
