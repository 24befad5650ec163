# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""The neutral model of a machine's configuration: what shall be on it, whatever dialect says so. Pure.

`build` makes it from data that `_cloud_lint` has found nothing wrong with; the renderers and the live application all
start from here, so that a machine gets the same files whichever way it was told.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_schema as schema
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_tree as tree

SECTION_DROP_IN = "20-cloudinit.conf"


class File(t.NamedTuple):
    """A file. C(append): its lines are added to what the system's own file has, by C(merge) where that is possible."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"
    append: bool = False


class Link(t.NamedTuple):
    path: str
    target: str


class Directory(t.NamedTuple):
    path: str
    mode: int = 0o755
    owner: str = "root"
    group: str = "root"


class DropIn(t.NamedTuple):
    name: str
    content: str


class Unit(t.NamedTuple):
    """A unit. C(content) None: the system has it. C(runtime): below /run, gone after the next boot."""

    name: str
    content: str | None = None
    drop_ins: tuple[DropIn, ...] = ()
    enable: bool = False
    runtime: bool = False
    mask: bool = False
    command: str = ""

    @property
    def is_network(self) -> bool:
        return self.name.rpartition(".")[2] in schema.NETWORK_SUFFIXES

    @property
    def directory(self) -> str:
        """Where its file lies."""
        base = "/run/systemd" if self.runtime else "/etc/systemd"
        return f"{base}/{'network' if self.is_network else 'system'}"

    @property
    def installs(self) -> bool:
        """Whether "systemctl enable" would find an [Install] section in the content."""
        return re.search(r"(?m)^\[Install\]\s*$", self.content or "") is not None


class User(t.NamedTuple):
    name: str
    passwd: str = ""
    gecos: str = ""
    homedir: str = ""
    no_create_home: bool = False
    primary_group: str = ""
    groups: tuple[str, ...] = ()
    no_user_group: bool = False
    system: bool = False
    no_log_init: bool = False
    shell: str = ""
    ssh_authorized_keys: tuple[str, ...] = ()


class Interface(t.NamedTuple):
    """A network interface. C(bond): the bond it is part of; C(bond_mode): it is one; C(vlan_id): it is a VLAN."""

    name: str = ""
    mac: str = ""
    dhcp: bool = False
    addresses: tuple[str, ...] = ()
    gateway: str = ""
    dns: tuple[str, ...] = ()
    mtu: int = 0
    bond: str = ""
    bond_mode: str = ""
    vlan_id: int = 0
    vlan_link: str = ""
    routes: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """A name for files and documents."""
        return self.name or "nic-" + self.mac.lower().replace(":", "")


class Filesystem(t.NamedTuple):
    device: str
    path: str
    format: str = "ext4"
    label: str = ""
    wipe: bool = False


class Model(t.NamedTuple):
    """Everything. C(sections) maps a section's name to its variables; C(addresses) are those of the machine."""

    hostname: str = ""
    hosts_localhost: bool = False
    users: tuple[User, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    directories: tuple[Directory, ...] = ()
    units: tuple[Unit, ...] = ()
    sections: t.Mapping[str, tuple[tuple[str, str], ...]] = {}
    update: t.Mapping[str, str] = {}
    oem: t.Mapping[str, str] = {}
    addresses: t.Mapping[str, str] = {}
    networks: tuple[Interface, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    packages: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


# --- from data ----------------------------------------------------------------------------------------------------


def _owner(text: str, group: str = "") -> tuple[str, str]:
    """User and group. Without a group it is the one given, "" for that of the user's name."""
    user, _colon, named = (text or "root").partition(":")
    return user or "root", named or group or user or "root"


def _mode(text: str, default: int) -> int:
    return int(text, 8) if text else default


def _file(entry: t.Mapping[str, t.Any]) -> File:
    # the original hands the owner to chown, which leaves the group to whom it was written by
    owner, group = _owner(entry.get("owner", ""), "root")
    return File(
        path=entry["path"],
        content=tree.decode_content(entry.get("content", ""), entry.get("encoding", "")),
        mode=_mode(entry.get("permissions", ""), 0o644),
        owner=owner,
        group=group,
    )


def _directory(entry: t.Mapping[str, t.Any]) -> Directory:
    owner, group = _owner(entry.get("owner", ""))
    return Directory(entry["path"], _mode(entry.get("permissions", ""), 0o755), owner, group)


def _unit(entry: t.Mapping[str, t.Any]) -> Unit:
    drop_ins = tuple(DropIn(one["name"], one["content"]) for one in entry.get("drop_ins", ()))
    plain = {key: entry[key] for key in ("name", "content", "enable", "runtime", "mask", "command") if key in entry}
    return Unit(**{**plain, "drop_ins": drop_ins})


def _user(entry: t.Mapping[str, t.Any]) -> User:
    fields = {key: entry[key] for key in User._fields if key in entry}
    for key in ("groups", "ssh_authorized_keys"):
        fields[key] = tuple(fields.get(key, ()))
    return User(**fields)


def _interface(entry: t.Mapping[str, t.Any]) -> Interface:
    fields = {key: entry[key] for key in Interface._fields if key in entry}
    for key in ("addresses", "dns"):
        fields[key] = tuple(fields.get(key, ()))
    fields["routes"] = tuple((route.get("to", ""), route.get("via", "")) for route in fields.get("routes", ()))
    return Interface(**fields)


def _users(data: t.Mapping[str, t.Any]) -> tuple[User, ...]:
    """All users; keys at the top of the document are those of core."""
    users = [_user(entry) for entry in data.get("users", ())]
    keys = tuple(data.get("ssh_authorized_keys", ()))
    if not keys:
        return tuple(users)
    for number, user in enumerate(users):
        if user.name == "core":
            merged = tuple(dict.fromkeys((*keys, *user.ssh_authorized_keys)))
            users[number] = user._replace(ssh_authorized_keys=merged)
            return tuple(users)
    return (User("core", ssh_authorized_keys=keys), *users)


def variable_text(value: t.Any) -> str:
    """A setting as the original writes it; "" for what it leaves out: false, zero and nothing."""
    if isinstance(value, bool):
        return "true" if value else ""
    if isinstance(value, (int, float)):
        return f"{value:g}" if value else ""
    return str(value or "")


def section_variables(name: str, settings: t.Mapping[str, t.Any]) -> tuple[tuple[str, str], ...]:
    """Variables of a section in the original's order."""
    found = []
    for key, what in schema.SECTIONS[name].keys.items():
        text = variable_text(settings.get(key))
        if text:
            found.append((what.env, text))
    return tuple(found)


def build(data: t.Mapping[str, t.Any], addresses: t.Mapping[str, str] | None = None) -> Model:
    """The model of checked data, variables replaced."""
    coreos = data.get("coreos", {})
    return Model(
        hostname=data.get("hostname", ""),
        hosts_localhost=data.get("manage_etc_hosts") == "localhost",
        users=_users(data),
        files=tuple(_file(entry) for entry in data.get("write_files", ())),
        links=tuple(Link(entry["path"], entry["target"]) for entry in data.get("links", ())),
        directories=tuple(_directory(entry) for entry in data.get("directories", ())),
        units=tuple(_unit(entry) for entry in coreos.get("units", ())),
        sections={name: section_variables(name, coreos[name]) for name in schema.SECTIONS if coreos.get(name)},
        update={key: coreos["update"][key] for key in schema.UPDATE if coreos.get("update", {}).get(key)},
        oem={key: coreos["oem"][key] for key in schema.OEM if coreos.get("oem", {}).get(key)},
        addresses={key: value for key, value in (addresses or {}).items() if value},
        networks=tuple(_interface(entry) for entry in data.get("networks", ())),
        filesystems=tuple(Filesystem(**entry) for entry in data.get("filesystems", ())),
        packages=tuple(data.get("packages", ())),
        groups=tuple(data.get("groups", ())),
    )


# --- what it comes to on a disk -----------------------------------------------------------------------------------


def escape_environment(value: str) -> str:
    """A value for C(Environment="NAME=value"), so that systemd reads what was written."""
    for char, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("\n", "\\n"), ("\t", "\\t")):
        value = value.replace(char, escaped)
    return value


def section_drop_in(variables: t.Iterable[tuple[str, str]]) -> str:
    """The drop-in of a section."""
    return "[Service]\n" + "".join(f'Environment="{name}={escape_environment(value)}"\n' for name, value in variables)


def options_env(variables: t.Iterable[tuple[str, str]]) -> str:
    """flannel's file of variables; like the original's, it has no newline at its end."""
    return "\n".join(f"{name}={value}" for name, value in variables)


def update_conf(update: t.Mapping[str, str], existing: str = "") -> str:
    """update.conf with these settings in place of what it has of them, new ones at the end in order."""
    lines = {schema.UPDATE[key].env: value for key, value in update.items()}
    kept = []
    for line in existing.splitlines():
        name = line.partition("=")[0]
        kept.append(f"{name}={lines.pop(name)}" if name in lines else line)
    return "".join(f"{line}\n" for line in [*kept, *(f"{name}={lines[name]}" for name in sorted(lines))])


def environment_lines(addresses: t.Mapping[str, str]) -> dict[str, str]:
    """What /etc/environment tells units about the machine's addresses, in the original's order."""
    return {f"COREOS_{name.upper()}": addresses[name] for name in sorted(schema.VARIABLES) if addresses.get(name)}


def environment_file(variables: t.Mapping[str, str], existing: str = "") -> str:
    """/etc/environment with these variables, the order of the others kept."""
    left = dict(variables)
    kept = []
    for line in existing.splitlines():
        name = line.partition("=")[0].strip()
        kept.append(f"{name}={left.pop(name)}" if name in left else line)
    return "".join(f"{line}\n" for line in [*kept, *(f"{name}={value}" for name, value in left.items())])


def oem_release(oem: t.Mapping[str, str]) -> str:
    """/etc/oem-release in the original's order, "" when there is no id."""
    if not oem.get("id"):
        return ""
    quoted = ("name", "home_url", "bug_report_url")
    lines = [f'{key.upper()}="{oem.get(key, "")}"' if key in quoted else f"{key.upper()}={oem.get(key, '')}"
             for key in ("id", "version_id", "name", "home_url", "bug_report_url")]  # fmt: skip
    return "".join(f"{line}\n" for line in lines)


def unit_files(model: Model, runtime: bool) -> tuple[Unit, ...]:
    """All units with what the sections add to them, each once.

    :param runtime: the sections' drop-ins go below /run, as the original puts them, which writes them at each boot
    """
    units = list(model.units) + network_units(model.networks)
    added = []
    for name, section in schema.SECTIONS.items():
        variables = model.sections.get(name)
        if section.unit and variables:
            added.append(
                Unit(section.unit, drop_ins=(DropIn(SECTION_DROP_IN, section_drop_in(variables)),), runtime=runtime)
            )
    return (*units, *added)


def merged_units(model: Model) -> tuple[Unit, ...]:
    """All units, one entry a name: for dialects that keep everything below /etc."""
    found: dict[str, Unit] = {}
    for unit in unit_files(model, runtime=False):
        if unit.name in found:
            first = found[unit.name]
            unit = first._replace(drop_ins=(*first.drop_ins, *unit.drop_ins))
        found[unit.name] = unit
    return tuple(found.values())


def system_files(model: Model, update_path: str = "/etc/coreos/update.conf") -> tuple[File, ...]:
    """The files that follow from settings, those that are named in the model left out."""
    files = []
    if model.hosts_localhost:
        files.append(File("/etc/hosts", f"127.0.0.1 {model.hostname or 'localhost'}\n".encode()))
    if oem_release(model.oem):
        files.append(File("/etc/oem-release", oem_release(model.oem).encode()))
    if model.update:
        files.append(File(update_path, update_conf(model.update).encode(), append=True))
    if model.sections.get("flannel"):
        files.append(File("/run/flannel/options.env", options_env(model.sections["flannel"]).encode()))
    variables = environment_lines(model.addresses)
    if variables and not any(file.path == "/etc/environment" for file in model.files):
        files.append(File("/etc/environment", environment_file(variables).encode(), append=True))
    return tuple(files)


# --- networks -----------------------------------------------------------------------------------------------------


def network_units(networks: t.Sequence[Interface]) -> list[Unit]:
    """systemd-networkd's files. They sort before the distribution's own."""
    units = []
    for one in networks:
        if one.bond_mode:
            units.append(
                Unit(f"10-{one.key}.netdev", f"[NetDev]\nName={one.name}\nKind=bond\n\n[Bond]\nMode={one.bond_mode}\n")
            )
        if one.vlan_id:
            units.append(
                Unit(f"10-{one.key}.netdev", f"[NetDev]\nName={one.name}\nKind=vlan\n\n[VLAN]\nId={one.vlan_id}\n")
            )
    for one in networks:
        units.append(Unit(f"10-{one.key}.network", _network_file(one, networks)))
    return units


def _network_file(one: Interface, networks: t.Sequence[Interface]) -> str:
    match = f"MACAddress={one.mac}" if one.mac else f"Name={one.name}"
    lines = ["[Match]", match, ""]
    if one.mtu:
        lines += ["[Link]", f"MTUBytes={one.mtu}", ""]
    lines.append("[Network]")
    if one.bond:
        lines.append(f"Bond={one.bond}")
    elif one.dhcp:
        lines.append("DHCP=yes")
    else:
        # waiting for advertisements that do not come keeps network-online.target for 13 s
        lines += ["DHCP=no", "IPv6AcceptRA=no", "LinkLocalAddressing=no"]
    lines += [f"Address={address}" for address in one.addresses]
    lines += [f"Gateway={one.gateway}"] if one.gateway else []
    lines += [f"DNS={server}" for server in one.dns]
    lines += [f"VLAN={other.name}" for other in networks if other.vlan_id and other.vlan_link == one.name]
    for to, via in one.routes:
        lines += ["", "[Route]", f"Destination={to}", f"Gateway={via}"]
    return "".join(f"{line}\n" for line in lines)
