# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Three dialects of one description: CoreOS and Flatcar cloud-config, Ignition 3.3, cloud-init's three files. Pure."""

from __future__ import annotations

import base64
import copy
import functools
import gzip
import hashlib
import ipaddress
import json
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_schema as schema
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_model import File, Interface, Model, Unit

try:
    import yaml
except ImportError:  # the module says so
    yaml = None  # type: ignore[assignment]

IGNITION_VERSION = "3.3.0"
FORMATS = ("coreos", "ignition", "cloud-init")
_SMALL = 256  # bytes below which packing a file makes it larger


@functools.lru_cache
def _dumper() -> t.Any:
    """A YAML writer that sets texts of several lines as blocks."""
    base = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

    class Dumper(base):  # type: ignore[misc, valid-type]
        """Ours alone, as it gets a representer of its own."""

    def text(dumper: t.Any, value: str) -> t.Any:
        style = "|" if "\n" in value.rstrip("\n") or value.endswith("\n") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper


def to_yaml(value: t.Any) -> str:
    """YAML that says the same to readers of version 1.1, of 1.2, and of Go."""
    # no anchors, which the original's reader does not know everywhere
    return str(
        yaml.dump(
            copy.deepcopy(value),
            Dumper=_dumper(),
            default_flow_style=False,
            sort_keys=False,
            allow_unicode=True,
            width=10**6,
        )
    )


# --- CoreOS -------------------------------------------------------------------------------------------------------


def _keep_variables(value: t.Any) -> t.Any:
    """Text that looks like a variable to the machine's agent, protected from it."""
    if isinstance(value, dict):
        return {key: _keep_variables(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_keep_variables(item) for item in value]
    if isinstance(value, str) and "_ipv" in value:
        return re.sub(r"\$(?=(?:public|private)_ipv[46])", r"\\$", value)
    return value


def coreos(data: t.Mapping[str, t.Any], model: Model, resolved: bool = True) -> str:
    """A cloud-config for CoreOS and Flatcar, with underscores, whose agents write what it says.

    :param data: checked data
    :param resolved: variables were replaced; what looks like one is text
    """
    known = {key: value for key, value in data.items() if key in schema.DOCUMENT and key != "coreos"}
    inner = dict(data.get("coreos", {}))
    for name, section in schema.SECTIONS.items():
        # the agent puts values into Environment="" as they are
        if section.unit and name in inner:
            inner[name] = {
                key: models.escape_environment(value) if isinstance(value, str) else value
                for key, value in inner[name].items()
            }
    units = [*inner.get("units", ()), *(_plain_unit(unit) for unit in models.network_units(model.networks))]
    if units:
        inner["units"] = units
    ordered = {key: known[key] for key in schema.DOCUMENT if key in known}
    if inner:
        ordered["coreos"] = inner
    if resolved:
        ordered = _keep_variables(ordered)
    return f"{schema.HEADER}\n\n{to_yaml(ordered) if ordered else ''}"


def _plain_unit(unit: Unit) -> dict[str, t.Any]:
    return {"name": unit.name, "content": unit.content}


# --- Ignition -----------------------------------------------------------------------------------------------------


def _source(content: bytes) -> dict[str, str]:
    packed = gzip.compress(content, 9, mtime=0) if len(content) > _SMALL else content
    if len(packed) < len(content):
        return {"source": "data:;base64," + base64.b64encode(packed).decode(), "compression": "gzip"}
    return {"source": "data:;base64," + base64.b64encode(content).decode()}


def _ignition_file(file: File) -> dict[str, t.Any]:
    entry: dict[str, t.Any] = {"path": file.path, "mode": file.mode}
    if file.append:
        entry["append"] = [_source(file.content)]
    else:
        entry["overwrite"] = True
        entry["contents"] = _source(file.content)
    if file.owner != "root":
        entry["user"] = _account(file.owner)
    if file.group != "root":
        entry["group"] = _account(file.group)
    return entry


def _account(name: str) -> dict[str, t.Any]:
    return {"id": int(name)} if name.isdigit() else {"name": name}


def _ignition_user(user: models.User) -> dict[str, t.Any]:
    names = {
        "passwd": "passwordHash", "gecos": "gecos", "homedir": "homeDir", "no_create_home": "noCreateHome",
        "primary_group": "primaryGroup", "no_user_group": "noUserGroup", "system": "system", "no_log_init": "noLogInit",
        "shell": "shell",
    }  # fmt: skip
    entry: dict[str, t.Any] = {"name": user.name}
    entry.update({new: getattr(user, old) for old, new in names.items() if getattr(user, old)})
    if user.groups:
        entry["groups"] = list(user.groups)
    if user.ssh_authorized_keys:
        entry["sshAuthorizedKeys"] = list(dict.fromkeys(user.ssh_authorized_keys))
    return entry


def _starts_at_boot(unit: Unit) -> bool:
    """The original runs its commands at each boot; elsewhere that is what an enabled unit does."""
    return not unit.is_network and not unit.mask and (unit.enable or unit.command in ("start", "restart"))


def _ignition_unit(unit: Unit) -> dict[str, t.Any]:
    entry: dict[str, t.Any] = {"name": unit.name}
    if unit.mask:
        return {**entry, "mask": True}
    if unit.content:
        entry["contents"] = unit.content
    if _starts_at_boot(unit) and (unit.installs or unit.content is None):
        entry["enabled"] = True
    if unit.drop_ins:
        entry["dropins"] = [{"name": one.name, "contents": one.content} for one in unit.drop_ins]
    return entry


def boot_links(units: t.Iterable[Unit]) -> list[models.Link]:
    """Links that start units which have no [Install] section of their own."""
    return [
        models.Link(f"/etc/systemd/system/multi-user.target.wants/{unit.name}", f"/etc/systemd/system/{unit.name}")
        for unit in units
        if _starts_at_boot(unit) and unit.content is not None and not unit.installs
    ]


def escape_path(path: str) -> str:
    """A path as systemd names the unit that mounts it."""
    words = [word for word in path.split("/") if word]
    found = []
    for number, word in enumerate(words):
        found.append(
            "".join(
                char
                if char.isascii() and (char.isalnum() or char in ":_" or (char == "." and (number or index)))
                else "".join(f"\\x{byte:02x}" for byte in char.encode())
                for index, char in enumerate(word)
            )
        )
    return "-".join(found) or "-"


def mount_units(model: Model) -> list[Unit]:
    """Units that mount the model's file systems at boot."""
    units = []
    for one in model.filesystems:
        if one.format == "swap":
            text = f"[Swap]\nWhat={one.device}\n\n[Install]\nRequiredBy=swap.target\n"
            units.append(Unit(f"{escape_path(one.device)}.swap", text, enable=True))
            continue
        text = (
            f"[Unit]\nRequires=systemd-fsck@{escape_path(one.device)}.service\n"
            f"After=systemd-fsck@{escape_path(one.device)}.service\n\n"
            f"[Mount]\nWhere={one.path}\nWhat={one.device}\nType={one.format}\n\n"
            "[Install]\nRequiredBy=local-fs.target\n"
        )
        units.append(Unit(f"{escape_path(one.path)}.mount", text, enable=True))
    return units


def ignition(model: Model, update_path: str = "/etc/flatcar/update.conf") -> str:
    """An Ignition 3.3 configuration as JSON."""
    units = [*models.merged_units(model), *mount_units(model)]
    networks = [unit for unit in units if unit.is_network and unit.content is not None]
    files = [*models.system_files(model, update_path), *model.files]
    files += [File(f"{unit.directory}/{unit.name}", (unit.content or "").encode()) for unit in networks]
    if model.hostname:
        files.append(File("/etc/hostname", f"{model.hostname}\n".encode()))
    # /run is another file system by then
    files = [file for file in files if not file.path.startswith("/run/")]
    links = [*model.links, *boot_links(units)]
    storage: dict[str, t.Any] = {
        "directories": [
            {
                "path": one.path,
                "mode": one.mode,
                **({"user": _account(one.owner)} if one.owner != "root" else {}),
                **({"group": _account(one.group)} if one.group != "root" else {}),
            }
            for one in model.directories
        ],
        "files": [_ignition_file(file) for file in files],
        "links": [{"path": one.path, "target": one.target, "overwrite": True} for one in links],
        "filesystems": [
            {
                "device": one.device,
                "format": one.format,
                **({"path": one.path} if one.format != "swap" else {}),
                **({"label": one.label} if one.label else {}),
                **({"wipeFilesystem": True} if one.wipe else {}),
            }
            for one in model.filesystems
        ],
    }
    document: dict[str, t.Any] = {
        "ignition": {"version": IGNITION_VERSION},
        "passwd": {
            "groups": [{"name": name, "system": True} for name in model.groups],
            "users": [_ignition_user(user) for user in model.users],
        },
        "storage": {key: value for key, value in storage.items() if value},
        "systemd": {"units": [_ignition_unit(unit) for unit in units if not unit.is_network]},
    }
    document["passwd"] = {key: value for key, value in document["passwd"].items() if value}
    kept = {key: value for key, value in document.items() if key == "ignition" or any(value.values())}
    return json.dumps(kept, separators=(",", ":"), ensure_ascii=False) + "\n"


# --- cloud-init ---------------------------------------------------------------------------------------------------


def _cloud_init_file(file: File) -> dict[str, t.Any]:
    entry: dict[str, t.Any] = {
        "path": file.path,
        "permissions": f"0{file.mode:o}",
        "owner": f"{file.owner}:{file.group}",
    }
    try:
        text = file.content.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if len(file.content) > 4096 or (file.content and not _plain(text)):
        entry["encoding"] = "gz+b64"
        entry["content"] = base64.b64encode(gzip.compress(file.content, 9, mtime=0)).decode()
    else:
        entry["content"] = text
    if file.append:
        entry["append"] = True
    if file.owner != "root" or file.group != "root":
        # written once packages are installed and users are made, which owns them
        entry["defer"] = True
    return entry


def _plain(text: str) -> bool:
    """Whether YAML carries the text as a block, as it is."""
    return bool(text) and all(
        char == "\n" or char == "\t" or (char.isprintable() and char != "\ufeff") for char in text
    )


def _cloud_init_user(user: models.User) -> dict[str, t.Any]:
    names = {
        "gecos": "gecos", "homedir": "homedir", "no_create_home": "no_create_home", "primary_group": "primary_group",
        "no_user_group": "no_user_group", "system": "system", "no_log_init": "no_log_init", "shell": "shell",
    }  # fmt: skip
    entry: dict[str, t.Any] = {"name": user.name}
    entry.update({new: getattr(user, old) for old, new in names.items() if getattr(user, old)})
    if user.name == "core":
        # what the user core is on CoreOS and Flatcar
        entry.setdefault("shell", "/bin/bash")
        entry["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    if user.groups:
        entry["groups"] = ",".join(user.groups)
    entry["lock_passwd"] = not user.passwd
    if user.passwd:
        entry["hashed_passwd"] = user.passwd
    if user.ssh_authorized_keys:
        entry["ssh_authorized_keys"] = list(dict.fromkeys(user.ssh_authorized_keys))
    return entry


def unit_paths(unit: Unit) -> list[File]:
    """Files of a unit: its own and its drop-ins."""
    files = [File(f"{unit.directory}/{unit.name}", unit.content.encode())] if unit.content is not None else []
    files += [File(f"{unit.directory}/{unit.name}.d/{one.name}", one.content.encode()) for one in unit.drop_ins]
    return [] if unit.mask else files


def _commands(model: Model, units: t.Sequence[Unit]) -> list[list[str]]:
    """What to run once all files are there, in the original's order."""
    commands: list[list[str]] = []
    for link in model.links:
        commands += [["mkdir", "-p", link.path.rpartition("/")[0] or "/"], ["ln", "-sfn", link.target, link.path]]
    for unit in units:
        if unit.mask:
            commands.append(["ln", "-sfn", "/dev/null", f"/etc/systemd/system/{unit.name}"])
    if any(not unit.is_network for unit in units):
        commands.append(["systemctl", "daemon-reload"])
    enabled = [unit.name for unit in units if unit.enable and not unit.is_network and not unit.mask]
    # cloud-init runs commands once for an instance, the original at each boot
    enabled += [
        unit.name
        for unit in units
        if unit.command in ("start", "restart") and not unit.enable and (unit.installs or unit.content is None)
    ]
    if enabled:
        commands.append(["systemctl", "enable", *dict.fromkeys(enabled)])
    for link in boot_links(units):
        commands += [["mkdir", "-p", link.path.rpartition("/")[0]], ["ln", "-sfn", link.target, link.path]]
    if any(unit.is_network for unit in model.units):
        commands.append(["systemctl", "restart", "systemd-networkd.service"])
    # without waiting: a member of etcd is up once the others are, and this is the boot they all wait in
    commands += [
        ["systemctl", "--no-block", unit.command, unit.name] for unit in units if unit.command and not unit.mask
    ]
    return commands


def _directory_commands(model: Model) -> tuple[list[list[str]], list[list[str]]]:
    """What makes directories: root's before files are written, others once their owners are there."""
    early: list[list[str]] = []
    late: list[list[str]] = []
    for one in model.directories:
        command = ["install", "-d", "-m", f"0{one.mode:o}", "-o", one.owner, "-g", one.group, one.path]
        (early if one.owner == one.group == "root" else late).append(command)
    return early, late


def cloud_init(model: Model) -> dict[str, str]:
    """cloud-init's documents: user-data, meta-data, network-config. The instance-id names their content."""
    networks = {unit.name for unit in models.network_units(model.networks)}
    units = [unit for unit in models.merged_units(model) if unit.name not in networks]
    files = [file for file in models.system_files(model) if file.path != "/etc/hosts"]
    files += [file for unit in units for file in unit_paths(unit)]
    # units first: a file of the same path that the user gives wins
    files += list(model.files)
    files = [file for file in files if not file.path.startswith("/run/")]
    document: dict[str, t.Any] = {}
    if model.hostname:
        document["hostname"] = model.hostname
        document["preserve_hostname"] = False
    if model.hosts_localhost:
        document["manage_etc_hosts"] = "localhost"
    lists = {
        "groups": list(model.groups),
        "users": [_cloud_init_user(user) for user in model.users],
        "packages": list(model.packages),
    }
    document.update({key: value for key, value in lists.items() if value})
    if model.filesystems:
        document["fs_setup"] = [
            {
                "device": one.device,
                "filesystem": one.format,
                "overwrite": one.wipe,
                "partition": "none",
                **({"label": one.label} if one.label else {}),
            }
            for one in model.filesystems
        ]
        document["mounts"] = [
            [one.device, "none", "swap", "sw", "0", "0"]
            if one.format == "swap"
            else [one.device, one.path, one.format, "defaults,nofail", "0", "2"]
            for one in model.filesystems
        ]
    early, late = _directory_commands(model)
    if early:
        document["bootcmd"] = early
    if files:
        document["write_files"] = [_cloud_init_file(file) for file in files]
    commands = [*late, *_commands(model, units)]
    if commands:
        document["runcmd"] = commands
    user_data = f"{schema.HEADER}\n\n{to_yaml(document or {})}"
    network = network_config(model.networks)
    digest = hashlib.sha256(f"{user_data}\0{network}\0{model.hostname}".encode("utf-8", "surrogatepass")).hexdigest()
    meta = {"instance-id": f"i-{digest[:17]}"}
    if model.hostname:
        meta["local-hostname"] = model.hostname
    return {"user-data": user_data, "meta-data": to_yaml(meta), "network-config": network}


def network_config(networks: t.Sequence[Interface]) -> str:
    """cloud-init's network-config, version 2; without interfaces, cloud-init is told to leave the network alone."""
    if not networks:
        return to_yaml({"version": 2, "config": "disabled"})
    document: dict[str, t.Any] = {"version": 2}
    for one in networks:
        entry = _interface_entry(one)
        kind = "ethernets"
        if one.bond_mode:
            kind = "bonds"
            entry["interfaces"] = [other.key for other in networks if other.bond == one.name]
            entry["parameters"] = {"mode": one.bond_mode}
        elif one.vlan_id:
            kind = "vlans"
            entry.update(id=one.vlan_id, link=one.vlan_link)
        elif one.mac:
            entry["match"] = {"macaddress": one.mac.lower()}
            if one.name:
                entry["set-name"] = one.name
        document.setdefault(kind, {})[one.key] = entry
    return to_yaml(document)


def _interface_entry(one: Interface) -> dict[str, t.Any]:
    """What all kinds of interfaces have in common."""
    entry: dict[str, t.Any] = {"dhcp4": one.dhcp}
    routes = [{"to": to, "via": via} for to, via in one.routes]
    if one.gateway:
        routes.insert(0, {"to": "::/0" if ":" in one.gateway else "0.0.0.0/0", "via": one.gateway})
    more: dict[str, t.Any] = {
        "addresses": list(one.addresses),
        "routes": routes,
        "nameservers": {"addresses": list(one.dns)} if one.dns else None,
        "mtu": one.mtu,
    }
    return {**entry, **{key: value for key, value in more.items() if value}}


def boot_arguments(networks: t.Sequence[Interface], hostname: str = "") -> list[str]:
    """The same network as arguments of a kernel, for an initramfs made by dracut. Empty: by DHCP."""
    found = []
    for one in networks:
        if one.bond_mode:
            parts = ",".join(other.key for other in networks if other.bond == one.name)
            found.append(f"bond={one.name}:{parts}:mode={one.bond_mode}")
        if one.vlan_id:
            found.append(f"vlan={one.name}:{one.vlan_link}")
        if one.mac and one.name and not one.bond_mode and not one.vlan_id:
            found.append(f"ifname={one.name}:{one.mac.lower()}")
        for address in one.addresses:
            parsed = ipaddress.ip_interface(address)
            if parsed.version == 6:
                client, mask, gateway = (
                    f"[{parsed.ip}]",
                    str(parsed.network.prefixlen),
                    f"[{one.gateway}]" if one.gateway else "",
                )
            else:
                client, mask, gateway = str(parsed.ip), str(parsed.netmask), one.gateway
            found.append(f"ip={client}::{gateway}:{mask}:{hostname}:{one.key}:none")
        if one.dhcp:
            found.append(f"ip={one.key}:dhcp")
        found += [f"nameserver={server}" for server in one.dns]
    return found
