# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that boots by itself (BIOS, one partition), made of an image that has a kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import image
from .plan import HostsError
from .system import run

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
linux /boot/{kernel} root=LABEL=flotilla ro console=tty0 console=ttyS0,115200{arguments}
initrd /boot/{initrd}
boot
"""


def recipe_of(program: Path) -> str:
    """A hash of how disks are made, here and in a program that uses this."""
    return hashlib.sha256(Path(__file__).read_bytes() + program.read_bytes()).hexdigest()


@contextmanager
def mounted(layers: Sequence[str], work: Path) -> Iterator[Path]:
    """The files of an image, as ``work/root``; what is written to them is gone afterwards."""
    for part in ("upper", "work", "root"):
        (work / part).mkdir()
    root = work / "root"
    options = f"lowerdir={image.lower_of(layers)},upperdir={work / 'upper'},workdir={work / 'work'}"
    run("mount", "-t", "overlay", "overlay", "-o", options, str(root))
    try:
        yield root
    finally:
        run("umount", str(root))
        for part in ("upper", "work"):
            run("rm", "-rf", str(work / part))


def kernel_of(root: Path) -> tuple[Path, Path]:
    """Kernel and initramfs of a system."""
    kernel, initrd = (next((root / "boot").glob(pattern)) for pattern in ("vmlinuz-*", "initrd.img-*"))
    return kernel, initrd


def write(disk: Path, root: Path, arguments: str = "") -> None:
    """Write a disk: GRUB before its one partition, whose file system is made of the files in ``root``.

    ``arguments`` are further ones of the kernel. Raises HostsError.
    """
    kernel, initrd = kernel_of(root)
    (root / "boot/grub").mkdir(exist_ok=True)
    text = _GRUB.format(kernel=kernel.name, initrd=initrd.name, arguments=f" {arguments}" if arguments else "")
    (root / "boot/grub/grub.cfg").write_text(text)
    (root / "etc/hostname").write_text("localhost\n")
    used = int(run("du", "-s", "--block-size=1", "-x", str(root)).split()[0])
    size = -(-(used * 11 // 10 + _SPARE) // (1 << 20)) << 20
    partition, core = disk.with_name("partition"), disk.with_name("core.img")
    with partition.open("wb") as stream:
        stream.truncate(size)
    make = ["mke2fs", "-q", "-t", "ext4", "-L", "flotilla", "-E", "root_owner=0:0", "-d", str(root), str(partition)]
    run(*make, timeout=600)
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
