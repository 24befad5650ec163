# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What a server has so that machines boot from the network and install themselves once. Pure.

Per machine there are a script for iPXE by its MAC address, and a folder with a name that cannot be guessed: the script
that starts the installer, what the installer is to do, and the documents of the machine's first boot.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import os
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud as cloud
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models

#: Where the installer looks for what it does. An initramfs of initramfs-tools runs it for C(boot=flotilla).
INSTALLER_PATH = "scripts/flotilla"
#: The kernel of x86 takes 2,048 bytes, the last of which is a zero.
COMMAND_LINE = 2047
UNPACKING = {".gz": "gzip", ".xz": "xz", ".bz2": "bzip2"}
#: Who serves the files, and nobody else reads them.
GROUP = "flotilla-netboot"
ASSETS = ("kernel", "initrd", "image")
DOCUMENTS = ("user-data", "meta-data", "network-config", "config.ign")

_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9_./:@+-]+")
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")

Problems = list[str]
Variables = t.Mapping[str, t.Any]


class Server(t.NamedTuple):
    """What all machines have in common.

    C(secret) makes the names of their folders; C(present) are paths that were found below C(directory); C(kernel),
    C(initrd) and C(image) are where these come from, a URL or a path on the controller; C(installer) is a path below
    C(url), and so is what `asset` makes of the others.
    """

    url: str
    directory: str
    secret: str
    subnet: str
    address: str
    range: tuple[str, ...] = ()
    proxy: bool = False
    kernel: str = ""
    kernel_sha256: str = ""
    initrd: str = ""
    initrd_sha256: str = ""
    image: str = ""
    image_sha256: str = ""
    installer: str = ""
    arguments: tuple[str, ...] = ()
    label: str = ""
    seed: str = ""
    present: tuple[str, ...] = ()


class Machine(t.NamedTuple):
    """One machine as the inventory describes it."""

    name: str
    mac: str
    disk: str
    wipe: str
    generation: str
    address: str
    networks: tuple[models.Interface, ...]
    documents: t.Mapping[str, str]


class Plan(t.NamedTuple):
    """What is to be there.

    C(assets): where large files come from (url), their sha256, and their path on the server, unless they are there.
    C(files) and C(directories) as host_service takes them. C(leases): MAC address, address or "", and name or "".
    C(absent): what earlier runs have left. C(state): the machines' names by what they are: waiting, failed, installed.
    C(network): the subnet's address and mask.
    """

    problems: Problems
    assets: list[dict[str, str]]
    files: list[dict[str, t.Any]]
    directories: list[dict[str, str]]
    leases: list[dict[str, str]]
    absent: list[str]
    state: dict[str, list[str]]
    network: dict[str, str]


def as_mac(text: str) -> str:
    """A MAC address in lower case and with colons, "" for what is none."""
    return text.lower().replace("-", ":") if _MAC.fullmatch(text) else ""


# --- from the inventory -------------------------------------------------------------------------------------------


def read_machine(
    name: str, variables: Variables, address: str, documents: t.Mapping[str, str]
) -> tuple[Machine, Problems]:
    """A machine from its variables, and what is wrong with them by themselves.

    :param address: of the machine, by the rule that all roles follow; "" when it is not known
    """
    networks, wrong = _read_networks(name, variables, address)
    first = next((one.mac for one in networks if one.mac), "")
    machine = Machine(
        name=name,
        mac=str(variables.get("netboot_mac") or first),
        disk=str(variables.get("netboot_disk") or ""),
        wipe=str(variables.get("netboot_wipe") or ""),
        generation=str(variables.get("netboot_generation") or 1),
        address=address,
        networks=networks,
        documents={key: text for key, text in documents.items() if text},
    )
    return machine, [*wrong, *_machine_problems(machine)]


def _read_networks(name: str, variables: Variables, address: str) -> tuple[tuple[models.Interface, ...], Problems]:
    """The interfaces of a machine, or what is wrong with them."""
    given: dict[str, t.Any] = {}
    for key in ("cloud_config_description", "cloud_config_addresses"):
        given[key] = variables.get(key) or {}
        if not isinstance(given[key], t.Mapping):
            return (), [f"{key} of {name} is {lint.shown(given[key])}: give a dictionary"]
    known = {"private_ipv4": address, "public_ipv4": address, **given["cloud_config_addresses"]}
    known = {str(key): str(value) for key, value in known.items() if value}
    networks = given["cloud_config_description"].get("networks")
    checked = lint.check_data({"networks": networks} if networks else {}, addresses=known)
    found = checked.errors
    if not found:
        model = models.build(lint.substitute(checked.data, known))
        found = cloud.network_problems(model)
        if not found:
            return model.networks, []
    return (), [f"cloud_config_description of {name}: {one.sentence()}" for one in found]


def _machine_problems(one: Machine) -> t.Iterator[str]:
    if not as_mac(one.mac):
        yield (
            f"netboot_mac of {one.name} is {one.mac!r}: give six pairs of hexadecimal digits with colons, such as"
            " 52:54:00:12:34:56"
        )
    if not one.disk.startswith("/dev/") or not _WORD.fullmatch(one.disk):
        yield (
            f"netboot_disk of {one.name} is {one.disk!r}: give the whole disk to install to, such as /dev/sda or"
            " /dev/disk/by-id/..."
        )
    if one.wipe not in ("", one.name):
        yield (
            f"netboot_wipe of {one.name} is {one.wipe!r}: to have all data on {one.disk} destroyed give the host's own"
            f" name, {one.name}, else leave it out"
        )
    if not re.fullmatch(r"[1-9][0-9]{0,8}", one.generation):
        yield f"netboot_generation of {one.name} is {one.generation!r}: give a number from 1 on"
    if not ({"user-data", "config.ign"} & set(one.documents)):
        yield (
            f"there are no documents of {one.name} in netboot_documents: run role cloud_config for it first, with the"
            " same folder"
        )
    for interface in one.networks:
        if interface.name and not _DEVICE.fullmatch(interface.name):
            yield (
                f"an interface of {one.name} is named {interface.name!r}: the kernel takes at most 15 letters, digits"
                " and any of _.-"
            )


def lease_address(machine: Machine) -> str:
    """The IPv4 address that DHCP gives the machine's MAC address, "" when any will do.

    It is the one that the interface, or the bond it is part of, will have; without a description of the network, the
    machine keeps using DHCP, and it is the machine's address.
    """
    if not machine.networks:
        return machine.address if _version(machine.address) == 4 else ""
    own = next((one for one in machine.networks if as_mac(one.mac) == as_mac(machine.mac)), None)
    if own is not None and own.bond:
        own = next((one for one in machine.networks if one.bond_mode and one.name == own.bond), own)
    if own is not None and own.dhcp:
        return machine.address if _version(machine.address) == 4 else ""
    found = [str(ipaddress.ip_interface(one).ip) for one in (own.addresses if own else ())]
    return next((one for one in found if _version(one) == 4), "")


def _version(text: str) -> int:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return 0


def asset(url: str, sha256: str) -> str:
    """Path of a large file below the server's URL. Its folder says what is in it, so one that is there is right."""
    return f"assets/{sha256.lower()}/{url.partition('?')[0].rpartition('/')[2]}"


# --- what all machines are together -------------------------------------------------------------------------------


def _subnet_problems(server: Server) -> t.Iterator[str]:
    try:
        subnet = ipaddress.IPv4Network(server.subnet)
    except ValueError:
        yield (
            f"netboot_subnet is {server.subnet!r}: give the IPv4 network that machines boot in with its prefix length,"
            " such as 192.0.2.0/24"
        )
        return
    if _version(server.address) != 4 or ipaddress.IPv4Address(server.address) not in subnet:
        yield f"netboot_address is {server.address!r}: give the server's own address in netboot_subnet, {subnet}"
    if len(server.range) not in (0, 2):
        yield f"netboot_range has {len(server.range)} entries: give the first and the last address, or none"
    for address in server.range:
        if _version(address) != 4 or ipaddress.IPv4Address(address) not in subnet:
            yield f"netboot_range holds {address!r}: give addresses of netboot_subnet, {subnet}"
    if server.range and server.proxy:
        yield "netboot_range is given and netboot_dhcp is proxy: addresses are then another server's, so leave it out"


def _asset_problems(server: Server) -> t.Iterator[str]:
    for name in ASSETS:
        url, sha256 = getattr(server, name), getattr(server, f"{name}_sha256")
        if not url.startswith(("/", "https://", "http://")) or not _WORD.fullmatch(asset(url, "0").split("/", 2)[2]):
            yield f"netboot_{name}_url is {url!r}: give an absolute path on the controller, or an http(s):// URL"
        if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            yield f"netboot_{name}_sha256 is {sha256!r}: give the SHA-256 of {url or 'the file'}, 64 hexadecimal digits"


def _word_problems(server: Server) -> t.Iterator[str]:
    for word in (*server.arguments, server.label, server.seed):
        if not re.fullmatch(r"[!-~]+", word):
            yield f"{word!r} in netboot_kernel_arguments, netboot_label or netboot_seed_directory: give one word"
    if not server.seed.startswith("/"):
        yield f"netboot_seed_directory is {server.seed!r}: give an absolute path in the image"


def _shared(machines: t.Sequence[Machine]) -> t.Iterator[str]:
    """What two machines must not have both."""
    judges: tuple[tuple[str, t.Callable[[Machine], str]], ...] = (
        ("MAC address", lambda one: as_mac(one.mac)),
        ("address", lease_address),
    )
    for what, of in judges:
        owners: dict[str, list[str]] = {}
        for one in machines:
            owners.setdefault(of(one), []).append(one.name)
        for value, names in owners.items():
            if value and len(names) > 1:
                yield f"{', '.join(names)} have the same {what}, {value}: give each its own"


def _place_problems(one: Machine, server: Server) -> t.Iterator[str]:
    """What is wrong with a machine in this very network."""
    subnet = ipaddress.IPv4Network(server.subnet)
    address = lease_address(one)
    if address and ipaddress.IPv4Address(address) not in subnet:
        yield f"the address of {one.name} is {address}, which is not in netboot_subnet, {subnet}: correct one of them"
    elif address == server.address:
        yield f"the address of {one.name} is {address}, which is the server's: give it another"
    elif not address and not server.proxy and not server.range:
        yield (
            f"the address of {one.name} while it boots from the network is not known: give its interface an IPv4"
            " address in cloud_config_description.networks, make ansible_host one, or set netboot_range"
        )
    length = len(" ".join(command_line(one, server)))
    if length > COMMAND_LINE:
        yield (
            f"the kernel's command line of {one.name} has {length} bytes, and the kernel takes {COMMAND_LINE}: describe"
            " fewer interfaces or give fewer netboot_kernel_arguments"
        )


def common_problems(machines: t.Sequence[Machine], server: Server) -> Problems:
    """What is wrong with machines beside each other, and with what they have in common."""
    found = [*_subnet_problems(server)]
    if not found:
        found = [problem for one in machines for problem in _place_problems(one, server)]
    found += [*_asset_problems(server), *_word_problems(server), *_shared(machines)]
    if not machines:
        found.append("the group that netboot_group names has no hosts: put the machines that are to boot into it")
    return found


# --- files --------------------------------------------------------------------------------------------------------


def folder_of(machine: Machine, server: Server) -> str:
    """Name of the machine's folder. A new generation has a new one, so that the machine installs itself again."""
    text = f"{as_mac(machine.mac)} {machine.generation}"
    return hmac.new(server.secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def network_steps(machine: Machine) -> list[str]:
    """What the installer does to reach the server, each step a word for the kernel's command line.

    The same interfaces, bonds, VLANs and addresses as the installed system gets, from the same description.
    """
    if not machine.networks:
        return [f"dhcp,{as_mac(machine.mac)}"]
    steps = [f"name,{one.mac.lower()},{one.name}" for one in machine.networks if one.mac and one.name]
    for one in machine.networks:
        parts = "+".join(_device(part) for part in machine.networks if part.bond == one.name)
        steps += [f"bond,{one.name},{one.bond_mode},{parts}"] if one.bond_mode else []
    steps += [f"vlan,{one.name},{one.vlan_link},{one.vlan_id}" for one in machine.networks if one.vlan_id]
    for one in machine.networks:
        device = _device(one)
        steps += [f"mtu,{device},{one.mtu}"] if one.mtu else []
        steps += [] if one.bond else [f"up,{device}"]
        steps += [f"address,{device},{address}" for address in one.addresses]
        steps += [f"dhcp,{device}"] if one.dhcp and not one.bond else []
    for one in machine.networks:
        steps += [f"route,default,{one.gateway}"] if one.gateway else []
        steps += [f"route,{to},{via}" for to, via in one.routes]
    return steps


def _device(one: models.Interface) -> str:
    return one.name or one.mac.lower()


def command_line(machine: Machine, server: Server) -> list[str]:
    """Arguments of the installer's kernel. Those of C(initrd) are for UEFI, where the kernel reads the files itself."""
    return [
        "initrd=initrd",
        "initrd=installer",
        "boot=flotilla",
        f"flotilla.url={server.url}",
        f"flotilla.key={folder_of(machine, server)}",
        *(f"flotilla.net={step}" for step in network_steps(machine)),
        *server.arguments,
    ]


def _start_script(machine: Machine, server: Server) -> str:
    url = server.url
    return (
        f"#!ipxe\n# {machine.name}: starts the installer\n"
        f"kernel {url}/{asset(server.kernel, server.kernel_sha256)} {' '.join(command_line(machine, server))}\n"
        f"initrd --name initrd {url}/{asset(server.initrd, server.initrd_sha256)}\n"
        f"initrd --name installer {url}/{server.installer}\n"
        "boot\n"
    )


def _mac_script(machine: Machine, server: Server) -> str:
    key = folder_of(machine, server)
    return (
        f"#!ipxe\n# {machine.name}: the server has this until the machine is installed\n"
        f"chain --replace {server.url}/keys/{key}/boot.ipxe || chain --replace {server.url}/local.ipxe\n"
    )


def _orders(machine: Machine, server: Server) -> str:
    """What the installer does: a name and a value a line."""
    image = asset(server.image, server.image_sha256)
    unpack = UNPACKING.get(os.path.splitext(image)[1], "none")
    lines = [
        ("disk", machine.disk),
        ("wipe", "yes" if machine.wipe == machine.name else "no"),
        ("image", f"{server.url}/{image}"),
        ("sha256", server.image_sha256.lower()),
        ("unpack", unpack),
        ("label", server.label),
        ("seed", server.seed),
    ]
    for name in DOCUMENTS:
        if name in machine.documents:
            digest = hashlib.sha256(machine.documents[name].encode("utf-8", "surrogatepass")).hexdigest()
            lines.append(("document", f"{name} {digest}"))
    return "".join(f"{name} {value}\n" for name, value in lines)


def archive(files: t.Mapping[str, bytes]) -> bytes:
    """An archive that the kernel unpacks over an initramfs: cpio in the form newc. Equal files give equal bytes."""
    parts: list[bytes] = []
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    entries = [(folder, 0o040755, b"") for folder in folders]
    entries += [(path, 0o100755, content) for path, content in sorted(files.items())]
    for number, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        parts += [head, b"\0" * (-len(head) % 4), content, b"\0" * (-len(content) % 4)]
    whole = b"".join(parts)
    return whole + b"\0" * (-len(whole) % 512)


def packed_installer(script: str) -> dict[str, str]:
    """The installer as a file: its path below the server's URL, and its bytes in base64."""
    content = archive({INSTALLER_PATH: script.encode()})
    return {
        "path": f"assets/{hashlib.sha256(content).hexdigest()}/installer.cpio",
        "content_b64": base64.b64encode(content).decode(),
    }


def plan(machines: t.Sequence[Machine], server: Server, wrong: t.Iterable[str] = ()) -> Plan:
    """Everything, or what is wrong with it.

    :param wrong: what is wrong with single machines, from `read_machine`
    """
    state: dict[str, list[str]] = {"waiting": [], "failed": [], "installed": []}
    problems = [*wrong, *common_problems(machines, server)]
    if problems:
        return Plan(problems, [], [], [], [], [], state, {})
    present = {os.path.relpath(path, server.directory) for path in server.present}
    files: dict[str, str] = {}
    assets = {name: asset(getattr(server, name), getattr(server, f"{name}_sha256")) for name in ASSETS}
    kept = {*assets.values(), server.installer}
    for one in machines:
        key = folder_of(one, server)
        done = f"state/installed/{key}" in present
        files[f"machines/{as_mac(one.mac).replace(':', '-')}.ipxe"] = _mac_script(one, server)
        if done:
            # it has read its secrets, and nobody needs to be able to fetch them any more
            state["installed"].append(one.name)
            kept.add(f"../state/installed/{key}")
            continue
        kept.add(f"../state/failed/{key}")
        state["failed" if f"state/failed/{key}" in present else "waiting"].append(one.name)
        own = {"boot.ipxe": _start_script(one, server), "orders": _orders(one, server), **one.documents}
        files.update({f"keys/{key}/{file}": text for file, text in own.items()})
    leases = [{"mac": as_mac(one.mac), "address": lease_address(one), "name": _label(one.name)} for one in machines]
    served = [
        {
            "path": f"{server.directory}/http/{path}",
            "content": text,
            "group": GROUP,
            "mode": "0640",
            "sensitive": path.startswith("keys/"),
            "restart": False,
        }
        for path, text in files.items()
    ]
    folders = {os.path.dirname(f"{server.directory}/http/{path}") for path in (*files, *kept) if ".." not in path}
    folders |= {f"{server.directory}/http/{name}" for name in ("", "assets", "keys", "machines")}
    folders = {os.path.normpath(path) for path in folders}
    subnet = ipaddress.IPv4Network(server.subnet)
    return Plan(
        [],
        [
            {
                "url": getattr(server, name),
                "sha256": getattr(server, f"{name}_sha256").lower(),
                "path": f"{server.directory}/http/{path}",
            }
            for name, path in assets.items()
            if f"http/{path}" not in present
        ],
        served,
        [{"path": path, "group": GROUP, "mode": "0750"} for path in sorted(folders)],
        leases,
        [f"{server.directory}/{path}" for path in _left_over(present, {*kept, *files})],
        state,
        {"address": str(subnet.network_address), "mask": str(subnet.netmask)},
    )


def _label(name: str) -> str:
    """A host's name as DHCP can carry it, "" when it cannot."""
    label = name.partition(".")[0]
    return label if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", label) else ""


def _left_over(present: t.Iterable[str], kept: t.Iterable[str]) -> list[str]:
    """What is present and not kept, folders as a whole: paths that begin with http/ or state/ and one folder more."""
    wanted = {os.path.normpath(f"http/{path}") for path in kept}
    folders = {os.path.dirname(path) for path in wanted}
    found: list[str] = []
    for path in sorted(present):
        if path.count("/") < 2 or path in wanted or path in folders:
            continue
        if not any(path.startswith(f"{other}/") for other in found):
            found.append(path)
    return found
