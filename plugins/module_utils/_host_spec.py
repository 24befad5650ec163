# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""The parameters of C(host_service): their specification, what they mean, and how they are shown."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import typing as t
import zlib

from ansible_collections.flotilla.cluster.plugins.module_utils import _host_plan as plans
from ansible_collections.flotilla.cluster.plugins.module_utils import _host_system as system

HIDDEN = "(not shown: the file is sensitive)"
AUTH_HIDDEN = "(not shown: it holds passwords)"
DIFF_LIMIT = 100_000

_OWNER = {
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}

SERVICE: dict[str, t.Any] = {
    "groups": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"name": {"type": "str", "required": True}},
    },
    "users": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "group": {"type": "str"},
            "home": {"type": "str", "default": "/nonexistent"},
            "shell": {"type": "str", "default": "/usr/sbin/nologin"},
            "groups": {"type": "list", "elements": "str", "default": []},
        },
    },
    "directories": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"path": {"type": "str", "required": True}, **_OWNER, "mode": {"type": "str", "default": "0755"}},
    },
    # no_log as a whole: Ansible writes parameters to the host's syslog before a module can say which of them are
    # sensitive, and there it does not recognise a secret of several lines inside a list. After that, the module lets
    # Ansible show again what is not sensitive; see `secrets` and `printable`.
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "no_log": True,
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str"},
            "content_b64": {"type": "str"},
            **_OWNER,
            "mode": {"type": "str", "default": "0644"},
            "validate": {"type": "str"},
            "sensitive": {"type": "bool", "default": False},
            "restart": {"type": "bool", "default": True},
        },
        "mutually_exclusive": [("content", "content_b64")],
        "required_one_of": [("content", "content_b64")],
    },
    "links": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "target": {"type": "str", "required": True},
            "restart": {"type": "bool", "default": True},
        },
    },
    # no_log, because a whole program in syslog helps nobody.
    "trees": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "no_log": True,
        "options": {
            "root": {"type": "str", "required": True},
            "link": {"type": "str", "default": "current"},
            "files": {"type": "dict"},
            "packed": {"type": "str"},
            "compile": {"type": "bool", "default": True},
            "restart": {"type": "bool", "default": True},
        },
        "mutually_exclusive": [("files", "packed")],
        "required_one_of": [("files", "packed")],
    },
    "absent": {"type": "list", "elements": "str", "default": []},
    "reads": {"type": "list", "elements": "str", "default": []},
    "enabled": {"type": "bool", "default": True},
    "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
    "sockets": {"type": "list", "elements": "str", "default": []},
    "restart": {"type": "str", "choices": ["auto", "defer", "never"], "default": "auto"},
    "ready": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "type": {"type": "str", "choices": ["tcp", "http", "command"], "required": True},
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int"},
            "url": {"type": "str"},
            "unix_socket": {"type": "path"},
            "path": {"type": "str", "default": "/"},
            "status": {"type": "list", "elements": "int", "default": [200]},
            "ca": {"type": "path"},
            "cert": {"type": "path"},
            "key": {"type": "path", "no_log": False},
            "argv": {"type": "list", "elements": "str"},
            "contains": {"type": "str"},
        },
        "required_if": [
            ("type", "tcp", ["port"]),
            ("type", "http", ["url", "unix_socket"], True),
            ("type", "command", ["argv"]),
        ],
        "mutually_exclusive": [("url", "unix_socket")],
    },
    "ready_timeout": {"type": "int", "default": 60},
    "wait": {"type": "bool", "default": True},
    # Its own options are checked by `_host_access`, which takes long to load.
    "etcd_auth": {"type": "dict", "no_log": True},
    "warnings": {"type": "list", "elements": "str", "default": []},
}

# One service by itself, or several of them. no_log for the same reason as that of files.
ARGUMENTS: dict[str, t.Any] = {
    "name": {"type": "str"},
    "pki": {"type": "dict", "default": {}},
    **SERVICE,
    "services": {
        "type": "list",
        "elements": "dict",
        "no_log": True,
        "options": {"name": {"type": "str", "required": True}, **SERVICE},
    },
}


# --- from parameters to a description ---------------------------------------------------------------------------


def _path(value: str, option: str) -> str:
    if not value.startswith("/") or value == "/" or os.path.normpath(value) != value or "\0" in value:
        raise ValueError(f"{option}: {value!r} must be an absolute path without '..', doubled or closing slashes.")
    return value


def _mode(value: str, option: str) -> int:
    digits = value[2:] if value.startswith("0o") else value
    if not digits or len(digits) > 5 or digits.strip("01234567"):
        raise ValueError(f"{option}: mode {value!r} must be octal in quotes, like '0644'.")
    mode = int(digits, 8)
    if mode > 0o7777:
        raise ValueError(f"{option}: mode {value!r} must be at most '7777'.")
    return mode


def _unit(value: str, option: str) -> str:
    if len(value) > 255 or not plans.UNIT_NAME.match(value):
        raise ValueError(
            f"{option}: {value!r} is no name of a systemd unit such as 'etcd.service'; give it with its type."
        )
    return value


def _account(value: str, option: str) -> str:
    if not plans.ACCOUNT_NAME.match(value):
        raise ValueError(
            f"{option}: {value!r} is no name of a system account; use up to 32 lower-case letters, digits, '-' and '_'."
        )
    return value


def _content(item: t.Mapping[str, t.Any], option: str) -> bytes:
    if item.get("content") is not None:
        return str(item["content"]).encode()
    try:
        return base64.b64decode(item["content_b64"], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{option}: content_b64 is not base64.") from None


def _file(item: t.Mapping[str, t.Any]) -> plans.FileSpec:
    option = f"files[{item['path']}]"
    if item.get("validate") and "%s" not in item["validate"]:
        raise ValueError(
            f"{option}: validate {item['validate']!r} must hold %s, which stands for the path of the new content."
        )
    return plans.FileSpec(
        path=_path(item["path"], "files"),
        content=_content(item, option),
        owner=item["owner"],
        group=item["group"],
        mode=_mode(item["mode"], option),
        validate=item.get("validate"),
        sensitive=item["sensitive"],
        restart=item["restart"],
    )


def _unpack(packed: str, option: str) -> dict[str, t.Any]:
    try:
        files = json.loads(zlib.decompress(base64.b64decode(packed, validate=True)))
    except (ValueError, zlib.error):
        files = None
    if not isinstance(files, dict):
        raise ValueError(f"{option}: packed is not what lookup file_tree makes with packed=true.")
    return files


def _tree(item: t.Mapping[str, t.Any]) -> plans.TreeSpec:
    root = _path(item["root"], "trees")
    contents = item["files"] if item.get("packed") is None else _unpack(item["packed"], f"trees[{root}]")
    if not contents:
        raise ValueError(f"trees[{root}]: files is empty; a tree needs at least one file.")
    for relative in contents:
        if (
            not relative
            or relative.startswith("/")
            or os.path.normpath(relative) != relative
            or relative.split("/")[0] == ".."
        ):
            raise ValueError(f"trees[{root}]: {relative!r} must be a relative path inside the tree, without '..'.")
    link = item["link"]
    if not link or "/" in link or link in (".", "..") or plans.VERSION_NAME.match(link):
        raise ValueError(f"trees[{root}]: link {link!r} must be a plain name that cannot be taken for a version.")
    files = {relative: str(text).encode() for relative, text in contents.items()}
    return plans.TreeSpec(root=root, files=files, link=link, compile=item["compile"], restart=item["restart"])


def _absent(value: str) -> str:
    # A slip of the pen must not remove /etc.
    if _path(value, "absent").count("/") < 2:
        raise ValueError(f"absent: {value!r} is a top-level directory, which this module does not remove.")
    return value


def _check_ready(params: t.Mapping[str, t.Any]) -> None:
    if params["ready_timeout"] < 1:
        raise ValueError(f"ready_timeout: {params['ready_timeout']} must be at least 1 second.")
    for check in params["ready"]:
        if check["type"] == "command" and not check["argv"]:
            raise ValueError("ready: argv of a command must name a program.")
        if check["type"] == "tcp" and not 0 < check["port"] < 65536:
            raise ValueError(f"ready: port {check['port']} must be between 1 and 65535.")
        if check["type"] == "http" and check.get("url"):
            from ansible_collections.flotilla.cluster.plugins.module_utils._host_ready import url_problem

            problem = url_problem(check["url"])
            if problem:
                raise ValueError(problem + ".")


def desired_from(params: t.Mapping[str, t.Any]) -> plans.Desired:
    """Turn module parameters into a description. Raises ValueError with one sentence for the user."""
    _check_ready(params)
    return plans.Desired(
        name=_unit(params["name"], "name"),
        groups=tuple(_account(item["name"], "groups") for item in params["groups"]),
        users=tuple(
            plans.UserSpec(
                name=_account(item["name"], "users"),
                group=_account(item.get("group") or item["name"], "users"),
                home=_path(item["home"], "users"),
                shell=_path(item["shell"], "users"),
                groups=tuple(_account(group, "users") for group in item["groups"]),
            )
            for item in params["users"]
        ),
        directories=tuple(
            plans.DirectorySpec(
                _path(item["path"], "directories"),
                item["owner"],
                item["group"],
                _mode(item["mode"], f"directories[{item['path']}]"),
            )
            for item in params["directories"]
        ),
        files=tuple(_file(item) for item in params["files"]),
        links=tuple(
            plans.LinkSpec(_path(item["path"], "links"), item["target"], item["restart"]) for item in params["links"]
        ),
        trees=tuple(_tree(item) for item in params["trees"]),
        absent=tuple(_absent(path) for path in params["absent"]),
        reads=tuple(_path(path, "reads") for path in params["reads"]),
        enabled=params["enabled"],
        state=params["state"],
        sockets=tuple(_unit(name, "sockets") for name in params["sockets"]),
        restart=params["restart"],
    )


# --- showing ----------------------------------------------------------------------------------------------------


def _summary(text: str) -> str:
    return f"({len(text)} characters, sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"


def described(params: t.Mapping[str, t.Any]) -> list[t.Mapping[str, t.Any]]:
    """The parameters of each service."""
    return [params] if params["services"] is None else list(params["services"])


def printable(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Parameters for the invocation that Ansible returns: contents as summaries, sensitive ones not at all."""
    if params.get("services") is not None:
        return {"services": [{**service, **printable(service)} for service in params["services"]]}
    files = []
    for item in params["files"]:
        shown = dict(item)
        for key in ("content", "content_b64"):
            if shown.get(key) is not None:
                shown[key] = HIDDEN if item["sensitive"] else _summary(str(shown[key]))
        files.append(shown)
    trees = []
    for item in params["trees"]:
        shown = {**item}
        if shown.get("packed") is not None:
            shown["packed"] = _summary(shown["packed"])
        else:
            shown["files"] = {path: _summary(str(text)) for path, text in item["files"].items()}
        trees.append(shown)
    return {"files": files, "trees": trees, **({"etcd_auth": AUTH_HIDDEN} if params.get("etcd_auth") else {})}


def secrets(params: t.Mapping[str, t.Any]) -> set[str]:
    """Texts for Ansible to blank out wherever they turn up in the result: sensitive contents, lines and words."""
    found: set[str] = set()
    for item in [file for service in described(params) for file in service["files"]]:
        if not item["sensitive"]:
            continue
        texts = [str(item[key]) for key in ("content", "content_b64") if item.get(key)]
        if item.get("content_b64"):
            with contextlib.suppress(ValueError):
                texts.append(_content(item, "").decode("utf-8", "replace"))
        for text in texts:
            found.add(text)
            found.update(line.strip() for line in text.splitlines() if len(line.strip()) >= 16)
            # a program may log the value of a variable, or a part of a URL, without what stands before it
            found.update(piece for piece in re.split(r"[=/\s]+", text) if len(piece) >= 32)
    for access in [service["etcd_auth"] for service in described(params) if service["etcd_auth"]]:
        users = access.get("users")
        for item in [access, *(users if isinstance(users, list) else [])]:
            found.add(str(item.get("password") or "") if isinstance(item, dict) else "")
    found.discard("")
    return found


def _text(content: bytes | None) -> str:
    if content is None:
        return ""
    if len(content) > DIFF_LIMIT:
        return f"(not shown: {len(content)} bytes)\n"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"(not text: {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]})\n"


def _attributes(owner: str, group: str, mode: int) -> str:
    return f"owner: {owner}\ngroup: {group}\nmode: '{mode:04o}'\n"


def _content_difference(spec: plans.FileSpec, found: plans.PathState) -> dict[str, str]:
    if spec.sensitive:
        before, after = ("" if found.content is None else HIDDEN + " old content\n"), HIDDEN + " new content\n"
    else:
        before, after = _text(found.content), _text(spec.content)
    if found.kind == "link":
        before = f"(link to {found.target})\n"
    return plans.difference(spec.path, before, after)


def differences(desired: plans.Desired, observed: plans.Observed, plan: plans.Plan) -> list[dict[str, str]]:
    """What changes, in the form Ansible prints with --diff: one entry for each file, one for the rest."""
    shown = [_content_difference(spec, observed.paths.get(spec.path, plans.PathState())) for spec in plan.files]
    fixes: list[plans.FileSpec | plans.DirectorySpec] = [*plan.attributes, *plan.directories]
    for spec in fixes:
        found = observed.paths.get(spec.path, plans.PathState())
        before = "" if found.kind == "absent" else _attributes(found.owner, found.group, found.mode)
        shown.append(plans.difference(spec.path, before, _attributes(spec.owner, spec.group, spec.mode)))
    links = [(link.path, link.target) for link in plan.links] + [
        (tree.link_path, tree.version) for tree in plan.switches
    ]
    for path, target in links:
        found = observed.paths.get(path, plans.PathState())
        before = f"{found.target}\n" if found.kind == "link" else ""
        shown.append(plans.difference(path, before, f"{target}\n"))
    shown += [plans.difference(path, "present\n", "absent\n") for path in (*plan.remove, *plan.prune)]
    before_lines, after_lines = _state_lines(desired, observed, plan)
    if before_lines != after_lines:
        shown.append(plans.difference(desired.name, "".join(before_lines), "".join(after_lines)))
    return shown


def _state_lines(desired: plans.Desired, observed: plans.Observed, plan: plans.Plan) -> tuple[list[str], list[str]]:
    """Accounts and units before and after, as lines."""
    before: list[str] = []
    after = [f"group {name}\n" for name in plan.groups] + [f"user {user.name}\n" for user in plan.users]
    after += [f"user {name} in group {group}\n" for name, groups in plan.memberships for group in groups]
    for name in (*desired.sockets, desired.name):
        unit = observed.units.get(name, plans.UnitState())
        enabled = unit.file_state or "not installed"
        now = unit.active
        before += [f"{name}: {enabled}, {now}\n"]
        if name in plan.enable or name in plan.reenable:
            enabled = "enabled"
        elif name in plan.disable:
            enabled = "disabled"
        if name in plan.stop_sockets or (name == desired.name and plan.action == "stop"):
            now = "inactive"
        elif name in plan.restart_sockets or (name == desired.name and plan.action == "restart"):
            now = "active, restarted"
        elif name in plan.start_sockets or (name == desired.name and plan.action == "start"):
            now = "active"
        after += [f"{name}: {enabled}, {now}\n"]
    return before, after


# --- check mode ---------------------------------------------------------------------------------------------------


def try_validators(plan: plans.Plan) -> None:
    """Run the validators whose programs are there on copies outside of the target directories. Raises HostError."""
    specs = [spec for spec in plan.files if spec.validate and shutil.which(spec.validate.split()[0])]
    for spec in specs:
        with tempfile.TemporaryDirectory(prefix="flotilla-") as directory:
            copy = os.path.join(directory, os.path.basename(spec.path))
            system.write_atomically(copy, spec.content, 0o600)
            system.check_content(spec, copy)
