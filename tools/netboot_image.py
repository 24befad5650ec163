# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make what role netboot serves from the image of local hosts: ``python3 tools/netboot_image.py FOLDER``.

The folder gets ``vmlinuz`` and ``initrd.img`` of the installer, ``disk.img.gz``, a disk that boots by itself (BIOS, one
partition, cloud-init), and ``SHA256SUMS`` of them.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

from localhosts import cluster, image, packages
from localhosts.plan import HostsError
from localhosts.system import Progress, run, status_of

_SECTOR = 512
_START = 2048  # sectors before the partition, where GRUB lies
_SPARE = 64 << 20  # free space, which the machine enlarges at its first boot
_MODULES = (
    "biosdisk",
    "part_msdos",
    "ext2",
    "search",
    "linux",
    "normal",
    "configfile",
    "serial",
    "echo",
    "test",
    "all_video",
)
_GRUB_PREFIX = "(hd0,msdos1)/boot/grub"
_GRUB = """\
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
linux /boot/{kernel} root=LABEL=flotilla ro console=tty0 console=ttyS0,115200
initrd /boot/{initrd}
boot
"""


def build(folder: Path, progress: Progress) -> None:
    """Make the files, unless they are of these very layers already. Raises HostsError."""
    layers = cluster.ensure_image("netboot", None, False, progress)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp, wanted = folder / "made-of", " ".join((*layers, recipe))
    if stamp.exists() and stamp.read_text() == wanted:
        progress.say(f"{folder} is there already")
        return
    run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends", "-o",
        "DPkg::Lock::Timeout=300", "install", *packages.BOOT_LOADER, timeout=600)  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".image-", dir=folder) as name,
        progress.step(f"making {folder}/disk.img.gz"),
    ):
        work = Path(name)
        for part in ("upper", "work", "root"):
            (work / part).mkdir()
        root = work / "root"
        options = f"lowerdir={image.lower_of(layers)},upperdir={work / 'upper'},workdir={work / 'work'}"
        run("mount", "-t", "overlay", "overlay", "-o", options, str(root))
        try:
            kernel, initrd = (next((root / "boot").glob(pattern)) for pattern in ("vmlinuz-*", "initrd.img-*"))
            (root / "boot/grub").mkdir(exist_ok=True)
            (root / "boot/grub/grub.cfg").write_text(_GRUB.format(kernel=kernel.name, initrd=initrd.name))
            (root / "etc/hostname").write_text("localhost\n")
            _disk(work, root)
            for source, target in ((kernel, "vmlinuz"), (initrd, "initrd.img")):
                (folder / target).write_bytes(source.read_bytes())
        finally:
            run("umount", str(root))
        run("gzip", "-1", str(work / "disk.img"), timeout=600)
        (work / "disk.img.gz").replace(folder / "disk.img.gz")
        for part in ("upper", "work"):
            run("rm", "-rf", str(work / part))
    sums = ((_sha256(folder / name), name) for name in ("vmlinuz", "initrd.img", "disk.img.gz"))
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))
    stamp.write_text(wanted)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _disk(work: Path, root: Path) -> None:
    """A disk with GRUB before its one partition, whose file system is made of a directory."""
    used = int(run("du", "-s", "--block-size=1", "-x", str(root)).split()[0])
    size = -(-(used * 11 // 10 + _SPARE) // (1 << 20)) << 20
    partition, disk = work / "partition", work / "disk.img"
    with partition.open("wb") as stream:
        stream.truncate(size)
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-L",
        "flotilla",
        "-E",
        "root_owner=0:0",
        "-d",
        str(root),
        str(partition),
        timeout=600,
    )
    core = work / "core.img"
    run("grub-mkimage", "-O", "i386-pc", "-p", _GRUB_PREFIX, "-o", str(core), *_MODULES)
    boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    loader = core.read_bytes()
    if len(loader) > (_START - 1) * _SECTOR:
        raise HostsError(f"GRUB has {len(loader)} bytes and does not fit before the partition: leave out modules")
    # one bootable partition of Linux; addresses by cylinders are of no use to anybody
    entry = b"\x80\xfe\xff\xff\x83\xfe\xff\xff" + _START.to_bytes(4, "little") + (size // _SECTOR).to_bytes(4, "little")
    head = boot[:440] + bytes(6) + entry + bytes(48) + b"\x55\xaa"
    with disk.open("wb") as stream:
        stream.write(head + loader)
    run("dd", f"if={partition}", f"of={disk}", "bs=1M", "seek=1", "conv=sparse,notrunc", "status=none", timeout=600)
    with disk.open("r+b") as stream:
        stream.truncate(_START * _SECTOR + size)
    partition.unlink()


def main() -> int:
    """Run; 0 when the files are there."""
    parser = argparse.ArgumentParser(prog="netboot_image.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to, such as /var/cache/flotilla/netboot")
    options = parser.parse_args()
    return status_of(parser.prog, lambda: build(options.folder.absolute(), Progress()), by_root=True)


if __name__ == "__main__":
    sys.exit(main())
