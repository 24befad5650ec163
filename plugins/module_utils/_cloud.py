# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Cloud-config as the module offers it: check, render, migrate. Pure."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import typing as t

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_lint as lint
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_model as models
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_render as renderers
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_schema as schema
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_targets as targets
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_tree as trees
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_lint import ERROR, INFO, WARNING, Checked, Finding
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_model import Model

#: The one document that a place is given, by format.
MAIN = {"coreos": "user-data", "ignition": "config.ign", "cloud-init": "user-data"}


class Rendered(t.NamedTuple):
    """Documents by their file names, what is handed over, and all that was found."""

    documents: dict[str, str]
    payload: targets.Payload
    findings: list[Finding]
    model: Model


def address_problems(addresses: t.Mapping[str, t.Any]) -> list[Finding]:
    """What is wrong with the values of the address variables."""
    found = []
    for name, value in addresses.items():
        path = f"addresses.{name}"
        if name not in schema.VARIABLES:
            found.append(
                Finding(
                    "address",
                    ERROR,
                    0,
                    path,
                    f"is no variable of a cloud-config; allowed are {', '.join(schema.VARIABLES)}",
                )
            )
            continue
        try:
            version = ipaddress.ip_address(str(value)).version if value else int(name[-1])
        except ValueError:
            version = 0
        if version != int(name[-1]):
            found.append(Finding("address", ERROR, 0, path, f"is {lint.shown(value)}; give an IPv{name[-1]} address"))
    return found


def not_expressible(model: Model, data: t.Mapping[str, t.Any], format_: str) -> list[Finding]:
    """What a dialect cannot say, so that nothing is dropped without a word."""
    judges = {"coreos": _not_coreos, "ignition": _not_ignition, "cloud-init": _not_cloud_init}
    return [Finding("not-expressible", *rest) for rest in judges[format_](model, data)]


_Rest = tuple[str, int, str, str]  # a finding without its rule
_EMPTY_RUN = "holds a path below /run, which is empty again after"


def _not_coreos(model: Model, data: t.Mapping[str, t.Any]) -> t.Iterator[_Rest]:
    for key in ("links", "directories", "filesystems", "groups", "packages"):
        if data.get(key):
            yield ERROR, 0, key, "has no place in a CoreOS cloud-config; render another format, or leave it out"
    for number, file in enumerate(model.files):
        if file.path.startswith("/usr/"):
            where = f"write_files[{number}].path"
            yield ERROR, 0, where, f"is {file.path}; /usr cannot be written on CoreOS and Flatcar; use /etc or /opt"


def _runtime_units(model: Model, format_: str) -> t.Iterator[_Rest]:
    for number, unit in enumerate(model.units):
        if unit.runtime:
            yield (
                INFO,
                0,
                f"coreos.units[{number}].runtime",
                f"is not known to {format_}; the unit stays after a reboot",
            )


def _not_ignition(model: Model, data: t.Mapping[str, t.Any]) -> t.Iterator[_Rest]:
    yield from _runtime_units(model, "ignition")
    if data.get("packages"):
        yield ERROR, 0, "packages", "has no place in Ignition, whose systems bring no package manager"
    for number, unit in enumerate(model.units):
        if unit.command and unit.command not in ("start", "restart"):
            where = f"coreos.units[{number}].command"
            yield WARNING, 0, where, f"is {unit.command}, and Ignition runs before any unit does"
    if any(file.path.startswith("/run/") for file in model.files):
        yield ERROR, 0, "write_files", f"{_EMPTY_RUN} Ignition has run"
    if any(file.path.startswith("/usr/") for file in model.files):
        yield (
            WARNING,
            0,
            "write_files",
            "holds a path below /usr, which is read-only on Flatcar; it is for other systems",
        )


def _not_cloud_init(model: Model, data: t.Mapping[str, t.Any]) -> t.Iterator[_Rest]:
    yield from _runtime_units(model, "cloud-init")
    if any(file.path.startswith("/run/") for file in model.files):
        yield ERROR, 0, "write_files", f"{_EMPTY_RUN} the first boot, and cloud-init writes it only then"


def network_problems(model: Model) -> list[Finding]:
    """What is wrong with interfaces, one by one and together."""
    found: list[Finding] = []
    seen: dict[str, str] = {}
    for number, one in enumerate(model.networks):
        wrong = [*_address_problems(one, seen), *_layer_problems(one, model.networks)]
        found += [Finding("network", ERROR, 0, f"networks[{number}].{key}", message) for key, message in wrong]
    return found


def _address_problems(one: models.Interface, seen: dict[str, str]) -> t.Iterator[tuple[str, str]]:
    for address in one.addresses:
        try:
            ip = str(ipaddress.ip_interface(address).ip)
        except ValueError:
            yield "addresses", f"holds {lint.shown(address)}; give addresses such as 192.0.2.11/24"
            continue
        if "/" not in address:
            yield "addresses", f"holds {address} without its prefix length; give {address}/24 or what it is"
        if ip in seen:
            yield "addresses", f"holds {ip}, which {seen[ip]} has already"
        seen[ip] = one.key
    for key, value in (("gateway", one.gateway), *(("dns", server) for server in one.dns)):
        if value and not _address(value):
            yield key, f"is {lint.shown(value)}; give an IP address"
    if one.dhcp and one.addresses:
        yield "dhcp", "excludes addresses; keep one of them"


def _layer_problems(one: models.Interface, networks: t.Sequence[models.Interface]) -> t.Iterator[tuple[str, str]]:
    if one.bond and one.bond not in {other.name for other in networks if other.bond_mode}:
        yield "bond", f"is {one.bond!r}, and no interface of that name has a bond_mode"
    if one.bond_mode and not any(other.bond == one.name for other in networks):
        yield "bond_mode", f"makes {one.name} a bond of nothing; let other interfaces name it as their bond"
    if one.vlan_id and not 1 <= one.vlan_id <= 4094:
        yield "vlan_id", f"is {one.vlan_id}; give 1 to 4094"
    if one.vlan_id and one.vlan_link not in {other.name for other in networks if other.name}:
        yield "vlan_link", f"is {one.vlan_link!r}; name the interface that the VLAN is on"


def _address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def filesystem_problems(model: Model) -> list[Finding]:
    """What is wrong with file systems."""
    found = []
    for number, one in enumerate(model.filesystems):
        path = f"filesystems[{number}]"
        if not one.device.startswith("/dev/"):
            found.append(
                Finding("filesystem", ERROR, 0, f"{path}.device", f"is {one.device!r}; give a device below /dev")
            )
    return found


class Request(t.NamedTuple):
    """What to render. C(addresses) None: the machine's agent puts them in, which only the format coreos knows."""

    format: str
    addresses: t.Mapping[str, str] | None = None
    target: str = "none"
    allow_secrets: bool = False
    stub_url: str = ""


def render(config: t.Any, request: Request, extra_files: t.Sequence[t.Mapping[str, t.Any]] = ()) -> Rendered:
    """Check a description and render it.

    :param config: the neutral model's data
    :param extra_files: entries of C(write_files) that may hold secrets
    :raises CloudConfigError: with all errors
    """
    return render_checked(
        lint.check_data(config, addresses=_known(request), allow_secrets=request.allow_secrets), request, extra_files
    )


class CloudConfigError(Exception):
    """A description or document that cannot be rendered."""

    def __init__(self, findings: t.Sequence[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("; ".join(finding.sentence() for finding in self.findings if finding.severity == ERROR))


def _known(request: Request) -> t.Mapping[str, str] | None:
    """Addresses to put in; None leaves variables to an agent, which no other format has."""
    if request.addresses is not None or request.format == "coreos":
        return request.addresses
    return {}


def render_checked(checked: Checked, request: Request, extra_files: t.Sequence[t.Mapping[str, t.Any]] = ()) -> Rendered:
    """Render what was checked already.

    :raises CloudConfigError: with all errors
    """
    addresses = _known(request)
    findings = [*checked.findings, *address_problems(addresses or {})]
    _stop(findings)
    data = checked.data if addresses is None else lint.substitute(checked.data, addresses)
    if extra_files:
        data = {**data, "write_files": [*data.get("write_files", ()), *extra_files]}
        more = lint.check_data({"write_files": data["write_files"]}, allow_secrets=True)
        findings += [one for one in more.errors if one not in findings]
        _stop(findings)
    try:
        model = models.build(data, addresses)
    except (TypeError, KeyError) as error:
        raise CloudConfigError([*findings, Finding("missing-key", ERROR, 0, "", f"lacks a key: {error}")]) from error
    findings += not_expressible(model, data, request.format)
    findings += network_problems(model) + filesystem_problems(model)
    _stop(findings)
    documents = _documents(data, model, request, addresses is not None)
    main = documents[MAIN[request.format]]
    if request.stub_url:
        try:
            main = targets.stub(request.format, request.stub_url, main)
        except ValueError as error:
            raise CloudConfigError([*findings, Finding("stub-url", ERROR, 0, "stub_url", str(error))]) from error
        documents["stub"] = main
    handed, problem = targets.payload(main, targets.TARGETS[request.target], request.format != "ignition")
    if problem:
        findings.append(problem)
    _stop(findings)
    return Rendered(documents, handed, findings, model)


def _stop(findings: t.Sequence[Finding]) -> None:
    if any(finding.severity == ERROR for finding in findings):
        raise CloudConfigError(findings)


def _documents(data: dict[str, t.Any], model: Model, request: Request, resolved: bool) -> dict[str, str]:
    if request.format == "coreos":
        return {"user-data": renderers.coreos(data, model, resolved)}
    if request.format == "ignition":
        return {"config.ign": renderers.ignition(model)}
    return renderers.cloud_init(model)


# --- migration ----------------------------------------------------------------------------------------------------


class Migrated(t.NamedTuple):
    """An old document in today's spelling, what was done to it, and what is left to do. C(kept): comments are there."""

    document: str
    data: dict[str, t.Any]
    changes: list[dict[str, t.Any]]
    remaining: list[Finding]
    kept: bool


_FIXED = ("hyphenated-key", "unquoted-octal", "unquoted-boolean", "enable-race", "duplicate-ssh-key", "header",
          "bare-colon")  # fmt: skip


def migrate(document: bytes, *, addresses: t.Mapping[str, str] | None = None) -> Migrated:
    """Bring an article-style document to a spelling that CoreOS and Flatcar of any age read alike.

    Comments and layout stay where lines can be mended one by one; else the document is written anew.

    :raises CloudConfigError: when it cannot be read
    """
    checked = lint.check_text(document)
    fatal = [one for one in checked.errors if not one.key and one.rule != "header"]
    if fatal or checked.kind in ("script", "ignition"):
        raise CloudConfigError(
            fatal or [Finding("kind", ERROR, 1, "", "is no cloud-config; there is nothing to migrate")]
        )
    text = trees.unwrap(document).text
    data = _repaired(checked)
    edited = _edited(text, checked)
    again = lint.check_text(edited.encode("utf-8", "surrogatepass"))
    kept = again.data == data and not [one for one in again.findings if one.rule in _FIXED]
    if not kept:
        edited = renderers.coreos(data, models.build({}), resolved=False)
        again = lint.check_text(edited.encode("utf-8", "surrogatepass"))
    changes = [
        {"rule": one.rule, "line": one.line, "key": one.key, "message": one.message}
        for one in checked.findings
        if one.rule in _FIXED
    ]
    if checked.wrapping:
        changes.insert(
            0, {"rule": "wrapping", "line": 0, "key": "", "message": f"was opened: {', '.join(checked.wrapping)}"}
        )
    if not kept:
        changes.append(
            {"rule": "rewritten", "line": 0, "key": "", "message": "was written anew; its comments are lost"}
        )
    if addresses is not None:
        again = lint.check_text(edited.encode("utf-8", "surrogatepass"), addresses=addresses)
    return Migrated(edited, data, changes, again.findings, kept)


def _repaired(checked: Checked) -> dict[str, t.Any]:
    """The data with what can be mended mended."""
    data: dict[str, t.Any] = json.loads(json.dumps(checked.data))
    races = {one.key for one in checked.findings if one.rule == "enable-race"}
    for number, unit in enumerate(data.get("coreos", {}).get("units", ())):
        if f"coreos.units[{number}].enable" in races:
            unit.pop("enable", None)
            unit.setdefault("command", "start")
    for entry in data.get("write_files", ()):
        permissions = entry.get("permissions")
        if permissions and not permissions.startswith("0"):
            entry["permissions"] = f"0{permissions}"
    for holder in (data, *data.get("users", ())):
        keys = holder.get("ssh_authorized_keys")
        if keys:
            unique: dict[str, str] = {}
            for key in keys:
                unique.setdefault(next((word for word in key.split() if word.startswith("AAAA")), key), key)
            holder["ssh_authorized_keys"] = list(unique.values())
    return data


def _edited(text: str, checked: Checked) -> str:
    """The text with single lines mended; whether that was enough is seen by reading it again."""
    lines = text.split("\n")
    for line, path in checked.hyphens:
        name = path.rpartition(".")[2]
        pattern = re.compile(rf"(^|[\s{{,])(['\"]?){name.replace('_', '[-_]')}\2(?=\s*:)")
        lines[line - 1] = pattern.sub(rf"\1{name}", lines[line - 1], count=1)
    for one in checked.findings:
        seen = lines[one.line - 1]
        if one.rule in ("unquoted-octal", "unquoted-boolean"):
            lines[one.line - 1] = _quote_value(seen, octal=one.rule == "unquoted-octal")
        elif one.rule == "enable-race" and re.fullmatch(r"\s*enable:\s*(true|yes|on)\s*", seen):
            lines[one.line - 1] = "\0"
    if any(one.rule == "header" for one in checked.findings):
        lines.insert(0, schema.HEADER)
    return "\n".join(line for line in lines if line != "\0")


def _quote_value(line: str, octal: bool) -> str:
    """The line of a key and its value with the value in quotes; what stands behind it stays."""
    match = re.fullmatch(r"(.*?:\s*)([0-9A-Za-z]+)((?:\s.*)?)", line)
    if not match:
        return line
    before, word, after = match.groups()
    return f"{before}'{'0' if octal and not word.startswith('0') else ''}{word}'{after}"


# --- what the module does -----------------------------------------------------------------------------------------


def layout(rendered: Rendered, request: Request) -> dict[str, str]:
    """Files of a directory that holds the documents, by their relative paths, as the place wants them."""
    documents = rendered.documents
    if request.target == "config-drive":
        meta = {"uuid": _digest(rendered)[:32], "hostname": rendered.model.hostname, "name": rendered.model.hostname}
        return {
            "openstack/latest/user_data": documents[MAIN[request.format]],
            "openstack/latest/meta_data.json": json.dumps({key: value for key, value in meta.items() if value}) + "\n",
        }
    files = dict(documents)
    if rendered.payload.encoding != "text":
        files[f"{MAIN[request.format]}.b64"] = f"{rendered.payload.text}\n"
    return files


#: Every path that `layout` may name; one that it does not name any more is removed.
LAYOUT_NAMES = (
    "config.ign", "config.ign.b64", "meta-data", "network-config", "openstack/latest/meta_data.json",
    "openstack/latest/user_data", "stub", "user-data", "user-data.b64",
)  # fmt: skip


def _digest(rendered: Rendered) -> str:
    text = json.dumps(rendered.documents, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def described(rendered: Rendered, request: Request, secret: bool) -> dict[str, t.Any]:
    """What the module returns of rendered documents; nothing of their content when that is secret."""
    target = targets.TARGETS[request.target]
    result: dict[str, t.Any] = {
        "digest": _digest(rendered),
        "size": rendered.payload.size,
        "limit": target.limit,
        "encoding": rendered.payload.encoding,
        "how": target.how,
        "boot_arguments": renderers.boot_arguments(rendered.model.networks, rendered.model.hostname),
    }
    if not secret:
        result["documents"] = rendered.documents
        result["payload"] = rendered.payload.text
    return result
