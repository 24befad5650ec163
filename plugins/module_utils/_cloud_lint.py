# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""What is wrong with a cloud-config, and the data that is left of it once it is read as it was meant.

Every rule of CoreOS's own validator is here, and those that it lacked. Pure: text or data in, findings and data out.
"""

from __future__ import annotations

import difflib
import re
import typing as t
from urllib.parse import urlsplit

from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_schema as schema
from ansible_collections.flotilla.cluster.plugins.module_utils import _cloud_tree as tree
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_schema import Key
from ansible_collections.flotilla.cluster.plugins.module_utils._cloud_tree import DocumentError, Node

ERROR, WARNING, INFO = "error", "warning", "info"


class Finding(t.NamedTuple):
    """One thing that is wrong. C(line) is 0 for data, C(key) the path of the key, "" for the document."""

    rule: str
    severity: str
    line: int
    key: str
    message: str

    def sentence(self) -> str:
        """All of it in one sentence."""
        place = ", ".join(part for part in (f"line {self.line}" if self.line else "", self.key) if part)
        return f"{place or 'the document'}: {self.message} [{self.rule}]"

    def as_dict(self) -> dict[str, t.Any]:
        return self._asdict()


def of_machine(finding: Finding, name: str) -> Finding:
    """A finding that says which of many machines it is about."""
    return finding._replace(key=f"{name}: {finding.key}" if finding.key else name)


def sentences(findings: t.Sequence[Finding], limit: int = 20) -> str:
    """Findings in one message; of very many only some."""
    more = len(findings) - limit
    return "; ".join(one.sentence() for one in findings[:limit]) + (f"; and {more} more" if more > 0 else "")


class Checked(t.NamedTuple):
    """A document that was read: findings in the order of their lines, and the data, keys with underscores."""

    findings: list[Finding]
    data: dict[str, t.Any]
    hyphens: list[tuple[int, str]]  # keys that were spelled with hyphens
    kind: str = "cloud-config"
    wrapping: tuple[str, ...] = ()

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == ERROR]


def shown(value: t.Any, limit: int = 60) -> str:
    """A value for a message: on one line, not too long."""
    text = " ".join(str(value).split())
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


_WORDS = {
    "map": "a mapping", "list": "a list", "str": "text", "int": "a whole number", "float": "a number",
    "bool": "true or false", "null": "nothing",
}  # fmt: skip
_SCALARS = ("str", "int", "float", "bool")


class _Walker:
    """Compares a tree with the schema and turns it into data."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.lines: dict[str, int] = {}
        self.hyphens: list[tuple[int, str]] = []

    def say(self, rule: str, severity: str, path: str, message: str, line: int | None = None) -> None:
        self.findings.append(Finding(rule, severity, self.lines.get(path, 0) if line is None else line, path, message))

    def read(self, node: Node, wanted: t.Any, path: str) -> t.Any:
        """The value of a node, None when it is of no use."""
        if node.kind == "null":
            return None
        if isinstance(wanted, Key):
            return self._scalar(node, wanted, path)
        if isinstance(wanted, list):
            return self._list(node, wanted[0], path)
        return self._map(node, wanted, path)

    def _wrong(self, node: Node, path: str, wanted: str) -> None:
        seen = f"{_WORDS[node.kind]}" + (f" ({shown(node.text)})" if node.kind in _SCALARS else "")
        # where its key is, as the original has it
        self.say("wrong-type", ERROR, path, f"is {seen}; give {wanted}", self.lines.get(path) or node.line)

    def _colon(self, node: Node, path: str) -> None:
        if node.colon:
            self.say(
                "bare-colon", ERROR, path,
                f"is {shown(node.text)}, and for a colon without quotes inside of brackets CoreOS's parser refuses the"
                " whole document; put the value in quotes", node.line,
            )  # fmt: skip

    def _map(self, node: Node, wanted: t.Mapping[str, t.Any], path: str) -> dict[str, t.Any] | None:
        if node.kind != "map":
            self._wrong(node, path, "a mapping")
            return None
        found: dict[str, t.Any] = {}
        for key, line, child in node.value:
            name = key.replace("-", "_")
            inner = f"{path}.{name}" if path else name
            if name not in wanted:
                self._unknown(key, name, wanted, path, line)
                continue
            if name != key:
                self.hyphens.append((line, inner))
                self.say(
                    "hyphenated-key", ERROR, inner,
                    f"is spelled {key!r}, which Flatcar since 2024 drops without a word; spell it {name!r}", line,
                )  # fmt: skip
            if name in found or inner in self.lines:
                self.say("duplicate-key", ERROR, inner, f"stands here again after line {self.lines[inner]}", line)
            self.lines[inner] = line
            value = self.read(child, wanted[name], inner)
            if value is not None:
                found[name] = value
        return found

    def _unknown(self, key: str, name: str, wanted: t.Mapping[str, t.Any], path: str, line: int) -> None:
        inner = f"{path}.{key}" if path else key
        if path.startswith("users[") and name in schema.USER_NEVER:
            self.say("unknown-key", WARNING, inner, "was documented once, but no version has ever read it", line)
            return
        if inner == "coreos.write_files":
            self.say("misplaced-key", ERROR, inner, "belongs to the top of the document, not below coreos", line)
            return
        if not path and name in t.cast("dict[str, t.Any]", schema.DOCUMENT["coreos"]):
            self.say("misplaced-key", ERROR, inner, "belongs below coreos, not to the top of the document", line)
            return
        near = difflib.get_close_matches(name, wanted, 1, 0.6) or [
            one for one in wanted if one.replace("_", "") == name.replace("_", "")
        ]
        guess = f"; did you mean {near[0]}?" if near else ""
        allowed = "" if len(wanted) > 12 else f"; allowed are {', '.join(wanted)}"
        self.say("unknown-key", ERROR, inner, f"is no key that anything reads{guess or allowed}", line)

    def _list(self, node: Node, wanted: t.Any, path: str) -> list[t.Any] | None:
        if node.kind != "list":
            self._wrong(node, path, "a list")
            return None
        found = []
        for number, child in enumerate(node.value):
            inner = f"{path}[{number}]"
            self.lines[inner] = child.line or self.lines.get(path, 0)
            value = self.read(child, wanted, inner)
            if value is not None:
                found.append(value)
        return found

    def _scalar(self, node: Node, key: Key, path: str) -> t.Any:
        if key.deprecated:
            self.say("deprecated", WARNING, path, key.deprecated)
        if key.type == "list":
            return self._words(node, path)
        if node.kind not in _SCALARS:
            self._wrong(node, path, _WORDS[key.type])
            return None
        self._colon(node, path)
        if key.type == "str":
            value: t.Any = self._text(node, key, path)
        elif key.type == node.kind or (key.type == "float" and node.kind == "int"):
            value = node.value
        else:
            self._wrong(node, path, _WORDS[key.type])
            return None
        if value is not None and key.pattern and not re.fullmatch(key.pattern, str(value)):
            self.say("invalid-value", ERROR, path, f"is {shown(value)}; allowed: {key.allowed}")
        return value

    def _text(self, node: Node, key: Key, path: str) -> str | None:
        """Text keeps its spelling, as the original does: 0644 is no number here. What other readers take is told."""
        name = path.rpartition(".")[2]
        if name == "permissions" and node.kind == "int":
            if not node.line:
                self.say(
                    "unquoted-octal", ERROR, path,
                    f"is the number {node.value}, which is {node.value:#o}"[:60].replace("0o", "0")
                    + " in octal; give it in quotes, such as '0644'",
                )  # fmt: skip
                return None
            if node.text.startswith("0"):
                self.say(
                    "unquoted-octal", ERROR, path,
                    f"is not in quotes: whatever rewrites the document makes {node.value} of it; write '{node.text}'",
                )  # fmt: skip
            else:
                octal = f"0{node.value:o}"
                self.say(
                    "unquoted-octal", ERROR, path,
                    f"is {node.text} without quotes, read as octal here and as a decimal number elsewhere (it may have"
                    f" been {octal} once); write '0{node.text}', or '{octal}' if that is what it was",
                )  # fmt: skip
        elif node.kind == "bool" and key.pattern:
            # off without quotes: the original reads the word, everything that rewrites it makes false of it
            if node.text.lower() in ("off", "on"):
                self.say(
                    "unquoted-boolean", ERROR, path,
                    f"is {node.text} without quotes, which whatever rewrites the document makes"
                    f" {str(node.value).lower()} of; write '{node.text}'",
                )  # fmt: skip
            return node.text
        return node.text

    def _words(self, node: Node, path: str) -> list[str] | None:
        if node.kind != "list":
            self._wrong(node, path, "a list of texts")
            return None
        found = []
        for number, child in enumerate(node.value):
            if child.kind in _SCALARS:
                found.append(child.text)
                self.lines[f"{path}[{number}]"] = child.line
                self._colon(child, f"{path}[{number}]")
            elif child.kind != "null":
                self._wrong(child, f"{path}[{number}]", "text")
        return found


# --- rules that look at more than one key -------------------------------------------------------------------------


_VARIABLE = re.compile(r"(\\?)\$(\{?)(public|private)_ipv(4|6)(\}?)")
_URL = re.compile(r"https?://[^/\s?#]+(/\S*)?")
_SECRETS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"(?im)^[^#\n]*\b[A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET|API_?KEY|ACCESS_?KEY|TOKEN)[\"']?\s*[=:]\s*[\"']?[^\s\"'$%{<]{4,}"),
     "what looks like a password or token"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "an access key"),
)  # fmt: skip


class _Rules:
    """The rules, given the walker that has read a document."""

    def __init__(self, walker: _Walker, data: dict[str, t.Any], neutral: bool) -> None:
        self.walker, self.data, self.neutral = walker, data, neutral
        self.say = walker.say
        coreos = data.get("coreos")
        self.coreos: dict[str, t.Any] = coreos if isinstance(coreos, dict) else {}

    def run(self) -> None:
        self.names()
        self.sections()
        self.discovery()
        self.units()
        self.files()
        self.users()
        self.host()
        self.secrets()

    def entries(self, name: str) -> list[tuple[str, dict[str, t.Any]]]:
        """(path, entry) of a list of mappings."""
        holder, _dot, last = name.rpartition(".")
        found = (self.coreos if holder == "coreos" else self.data).get(last) or []
        return [(f"{name}[{number}]", entry) for number, entry in enumerate(found) if isinstance(entry, dict)]

    def names(self) -> None:
        """Every entry has a name, and no two have the same."""
        for listed, key in schema.NAMES.items():
            if listed == "coreos.units.drop_ins":
                groups = [
                    (
                        f"{path}.drop_ins",
                        [(f"{path}.drop_ins[{n}]", d) for n, d in enumerate(unit.get("drop_ins") or [])],
                    )
                    for path, unit in self.entries("coreos.units")
                ]
            else:
                groups = [(listed, self.entries(listed))]
            for _group, entries in groups:
                self._named(listed, key, entries)

    def _named(self, listed: str, key: str, entries: list[tuple[str, dict[str, t.Any]]]) -> None:
        what = {"coreos.units": "unit", "coreos.units.drop_ins": "drop-in", "write_files": "file"}.get(
            listed, listed.rstrip("s")
        )
        seen: dict[str, str] = {}
        for path, entry in entries:
            name = entry.get(key)
            if not name:
                if listed == "networks" and entry.get("mac"):
                    continue
                self.say("missing-name", ERROR, path, f"has no {key}, so it would be passed over; give one")
                continue
            if name in seen:
                rule = f"duplicate-{what}"
                line = self.walker.lines.get(seen[name], 0)
                before = f" on line {line}" if line else ""
                self.say(rule, ERROR, path, f"is {name} a second time, after {seen[name]}{before}; keep one")
            seen.setdefault(name, path)

    def sections(self) -> None:
        for name, section in schema.SECTIONS.items():
            if name not in self.coreos:
                continue
            if section.deprecated:
                self.say("deprecated", WARNING, f"coreos.{name}", section.deprecated)
        for name in ("etcd", "etcd2"):
            self._etcd(f"coreos.{name}", self.coreos.get(name) or {})

    def _etcd(self, path: str, etcd: dict[str, t.Any]) -> None:
        ways = [key for key in ("discovery", "discovery_srv", "initial_cluster") if etcd.get(key)]
        if len(ways) > 1:
            self.say(
                "exclusive-keys", ERROR, f"{path}.{ways[1]}",
                f"excludes {ways[0]}: a member finds the others one way; keep one of {', '.join(ways)}",
            )  # fmt: skip
        state = etcd.get("initial_cluster_state")
        if state not in (None, "", "new", "existing"):
            self.say(
                "invalid-value", ERROR, f"{path}.initial_cluster_state", f"is {shown(state)}; allowed: new, existing"
            )
        if state == "existing" and etcd.get("discovery"):
            self.say(
                "exclusive-keys", ERROR, f"{path}.initial_cluster_state",
                "is existing, and discovery is for new clusters only; remove one of them",
            )  # fmt: skip
        for one, other in (("cert_file", "key_file"), ("peer_cert_file", "peer_key_file")):
            if bool(etcd.get(one)) != bool(etcd.get(other)):
                there, missing = (one, other) if etcd.get(one) else (other, one)
                line = self.walker.lines.get(f"{path}.{there}", 0)
                message = f"is missing; {one} and {other} need each other"
                self.say("missing-key", ERROR, f"{path}.{missing}", message, line)
        for key in etcd:
            if key.endswith(("_urls", "_cluster")) and re.search(r"https?://(?:[:/,]|$)", str(etcd[key])):
                self.say("empty-address", ERROR, f"{path}.{key}", f"is {shown(etcd[key])}, a URL without an address")

    def discovery(self) -> None:
        for name in ("etcd", "etcd2"):
            url = (self.coreos.get(name) or {}).get("discovery")
            path = f"coreos.{name}.discovery"
            if not url:
                continue
            if "<token>" in url:
                self.say("discovery-url", ERROR, path, f"is {shown(url)}: put a token in place of <token>")
            elif not _is_url(url):
                self.say(
                    "discovery-url", ERROR, path,
                    "is no URL; give what the discovery service returned, such as"
                    " https://discovery.example.org/0123456789abcdef0123456789abcdef",
                )  # fmt: skip

    def units(self) -> None:
        for path, unit in self.entries("coreos.units"):
            name = unit.get("name") or ""
            stem, dot, suffix = name.rpartition(".")
            if name and (not dot or suffix not in schema.UNIT_SUFFIXES or not stem):
                self.say(
                    "unit-suffix", ERROR, f"{path}.name",
                    f"is {shown(name)}, which systemd does not take; end it in one of ."
                    + ", .".join(schema.UNIT_SUFFIXES),
                )  # fmt: skip
            elif name and not re.fullmatch(r"[A-Za-z0-9:_.\\@-]+", name):
                self.say(
                    "unit-suffix", ERROR, f"{path}.name",
                    f"is {shown(name)}; names of units have letters, digits and :-_.\\@ only",
                )  # fmt: skip
            self._unit(path, name, unit)

    def _unit(self, path: str, name: str, unit: dict[str, t.Any]) -> None:
        suffix = name.rpartition(".")[2]
        for number, drop_in in enumerate(unit.get("drop_ins") or []):
            inner = f"{path}.drop_ins[{number}]"
            if not drop_in.get("content"):
                self.say("missing-content", ERROR, inner, "has no content; give it, or leave the drop-in out")
            if drop_in.get("name") and not re.fullmatch(r"[A-Za-z0-9:_.@-]+\.conf", drop_in["name"]):
                self.say(
                    "drop-in-name", ERROR, f"{inner}.name",
                    f"is {shown(drop_in['name'])}; systemd reads names that end in .conf only",
                )  # fmt: skip
        if unit.get("mask") and (unit.get("content") or unit.get("command") in ("start", "restart")):
            self.say("mask", WARNING, path, "is masked: its content is lost and nothing can start it")
        if unit.get("enable") and suffix in schema.NETWORK_SUFFIXES:
            self.say("enable-network", WARNING, path, "is not a unit that can be enabled; networkd reads it anyway")
        owner = {section.unit: section_name for section_name, section in schema.SECTIONS.items()}
        if unit.get("enable") and name in owner and not self.neutral:
            self.say(
                "enable-race", ERROR, f"{path}.enable",
                f"starts {name} at boot before cloud-config has written what coreos.{owner[name]} says; remove it and"
                " let command: start do it",
            )  # fmt: skip
        self._unit_text(f"{path}.content", unit.get("content"), name)
        for number, drop_in in enumerate(unit.get("drop_ins") or []):
            self._unit_text(f"{path}.drop_ins[{number}].content", drop_in.get("content"), name)

    def _unit_text(self, path: str, content: str | None, name: str) -> None:
        for line in (content or "").splitlines():
            if line.strip() and not line.lstrip().startswith(("#", ";")):
                if not line.lstrip().startswith("["):
                    self.say(
                        "unit-text",
                        ERROR,
                        path,
                        f"of {name} begins with {shown(line)} before any [Section]; begin with one",
                    )
                return

    def files(self) -> None:
        for path, entry in self.entries("write_files"):
            where = entry.get("path") or ""
            if where:
                self._path(f"{path}.path", where)
            if where.startswith("/usr/") and not self.neutral:
                # a description may be for other systems; its renderer knows
                self.say("path-under-usr", ERROR, f"{path}.path",
                         f"is {where}; /usr cannot be written on CoreOS and Flatcar; use /etc or /opt")  # fmt: skip
            if "content" not in entry and not self.neutral:
                self.say("missing-content", WARNING, path, "has no content, so an empty file is written")
            try:
                tree.decode_content(entry.get("content") or "", entry.get("encoding") or "")
            except DocumentError as error:
                self.say("undecodable-content", ERROR, f"{path}.content", error.message.removeprefix("content "))
        for listed in ("links", "directories"):
            for path, entry in self.entries(listed):
                self._path(f"{path}.path", entry.get("path") or "/")
        for path, entry in self.entries("links"):
            if not entry.get("target"):
                self.say("missing-content", ERROR, path, "has no target; give what the link points at")

    def _path(self, path: str, where: str) -> None:
        if not where.startswith("/") or ".." in where.split("/") or "\0" in where or "\n" in where:
            self.say("file-path", ERROR, path, f"is {shown(where)}; give an absolute path without '..'")

    def users(self) -> None:
        for path, user in self.entries("users"):
            name = user.get("name") or ""
            if name and not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", name):
                self.say(
                    "user-name", ERROR, f"{path}.name",
                    f"is {shown(name)}; give up to 32 lower-case letters, digits, '-' and '_'",
                )  # fmt: skip
            if user.get("passwd") and not user["passwd"].startswith(("$", "!", "*")):
                self.say(
                    "plain-password", ERROR, f"{path}.passwd",
                    "is no hash; give one made with 'openssl passwd -6', or leave it out and use a key",
                )  # fmt: skip
            self._ssh_keys(f"{path}.ssh_authorized_keys", user.get("ssh_authorized_keys") or [])
        self._ssh_keys("ssh_authorized_keys", self.data.get("ssh_authorized_keys") or [])

    def _ssh_keys(self, path: str, keys: list[str]) -> None:
        seen = set()
        for number, key in enumerate(keys):
            inner = f"{path}[{number}]"
            words = key.split()
            body = next((word for word in words if word.startswith("AAAA")), "")
            if not body or "\n" in key.strip():
                self.say(
                    "ssh-key", ERROR, inner,
                    f"is {shown(key, 30)}; give one public key a line, such as 'ssh-ed25519 AAAA… name'",
                )  # fmt: skip
            elif body in seen:
                self.say("duplicate-ssh-key", ERROR, inner, "is a key that is there already; Ignition refuses that")
            seen.add(body)

    def host(self) -> None:
        name = self.data.get("hostname")
        if name is None:
            return
        label = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
        if not re.fullmatch(rf"{label}(\.{label})*", name):
            self.say(
                "hostname",
                ERROR,
                "hostname",
                f"is {shown(name)}; give letters, digits and '-', at most 63 between dots",
            )
        elif "." in name:
            self.say("hostname", WARNING, "hostname", f"is {shown(name)}; Flatcar cuts it at the first dot")

    def secrets(self) -> None:
        for path, key, value in _leaves(self.data, schema.DOCUMENT):
            if key is not None and key.secret and value:
                what = "a password's hash" if path.endswith(".passwd") else "a password"
                severity = WARNING if path.endswith(".passwd") else ERROR
                self.say("secret", severity, path, _exposed(what))
                continue
            text = value
            if path.startswith("write_files[") and path.endswith(".content"):
                entry = self.data["write_files"][int(path[12 : path.index("]")])]
                try:
                    text = tree.decode_content(value, entry.get("encoding") or "").decode("utf-8", "replace")
                except DocumentError:
                    continue
            for pattern, what in _SECRETS:
                if pattern.search(text):
                    self.say("secret", ERROR, path, _exposed(what))
                    break


def _exposed(what: str) -> str:
    return (
        f"holds {what}: user-data is kept by the cloud, readable from every process of the machine in many of them, and"
        " by whoever may see the machine's description; bring it after the boot"
    )


def _is_url(url: str) -> bool:
    if not _URL.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _leaves(value: t.Any, wanted: t.Any, path: str = "") -> t.Iterator[tuple[str, Key | None, str]]:
    """Every text of the data: its path, its key, and itself."""
    if isinstance(value, dict):
        for name, inner in value.items():
            known = wanted.get(name) if isinstance(wanted, t.Mapping) else None
            yield from _leaves(inner, known, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        known = wanted[0] if isinstance(wanted, list) else wanted
        for number, inner in enumerate(value):
            yield from _leaves(inner, known, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, wanted if isinstance(wanted, Key) else None, value


def variable_findings(
    walker_lines: t.Mapping[str, int], data: t.Any, known: t.Mapping[str, str] | None
) -> list[Finding]:
    """Address variables that stay what they are. C(known) None: the machine's own agent will replace them."""
    found = []
    for path, _key, text in _leaves(data, None):
        for match in _VARIABLE.finditer(text):
            escaped, open_, side, version, close = match.groups()
            name = f"{side}_ipv{version}"
            line = walker_lines.get(path, 0)
            if open_ and close:
                if not escaped:
                    found.append(
                        Finding(
                            "braced-variable",
                            WARNING,
                            line,
                            path,
                            f"holds ${{{name}}}, which nothing replaces; write ${name}",
                        )
                    )
            elif not escaped and known is not None and not known.get(name):
                found.append(
                    Finding(
                        "unresolved-variable",
                        ERROR,
                        line,
                        path,
                        f"holds ${name}, and that address is not known; give it, as an empty one would be put there",
                    )
                )
    return found


def substitute(data: t.Any, known: t.Mapping[str, str]) -> t.Any:
    """The data with addresses in place of their variables; C(\\$private_ipv4) stays as C($private_ipv4)."""
    if isinstance(data, dict):
        return {key: substitute(value, known) for key, value in data.items()}
    if isinstance(data, list):
        return [substitute(item, known) for item in data]
    if not isinstance(data, str) or "_ipv" not in data:
        return data

    def put(match: t.Match[str]) -> str:
        escaped, open_, side, version, close = match.groups()
        if open_ and close:
            return match.group(0)
        name = f"${side}_ipv{version}"
        return (name if escaped else known.get(name[1:], "")) + close

    return _VARIABLE.sub(put, data)


def check_tree(
    root: Node, *, neutral: bool = False, addresses: t.Mapping[str, str] | None = None, allow_secrets: bool = False
) -> Checked:
    """Apply every rule to a tree.

    :param neutral: keys that are beyond CoreOS are allowed, too
    :param addresses: values of C($private_ipv4) and so on; None leaves them to the machine
    """
    walker = _Walker()
    wanted = {**schema.DOCUMENT, **(schema.EXTENSIONS if neutral else {})}
    data = walker.read(root, wanted, "") or {}
    _Rules(walker, data, neutral).run()
    found = walker.findings + variable_findings(walker.lines, data, addresses)
    if allow_secrets:
        found = [one._replace(severity=INFO) if one.rule == "secret" else one for one in found]
    found.sort(key=lambda one: (one.line, one.key, one.rule))
    return Checked(list(dict.fromkeys(found)), data, walker.hyphens)


def check_text(
    document: bytes, *, addresses: t.Mapping[str, str] | None = None, allow_secrets: bool = False
) -> Checked:
    """Apply every rule to a file of user-data. Never fails: what cannot be read is a finding."""
    try:
        unwrapped = tree.unwrap(document)
    except DocumentError as error:
        return Checked([_fatal(error)], {}, [], "unknown")
    if unwrapped.kind in ("script", "ignition"):
        what = {
            "script": "a script, which is run as it is",
            "ignition": "an Ignition configuration, which has no keys of CoreOS",
        }
        note = Finding("kind", INFO, 1, "", f"is {what[unwrapped.kind]}; there is nothing to check")
        return Checked([note], {}, [], unwrapped.kind, unwrapped.wrapping)
    first = unwrapped.text.split("\n", 1)[0]
    if unwrapped.kind == "unknown":
        header = Finding(
            "header", ERROR, 1, "", f"begins with {shown(first, 30)}; its first line has to be {schema.HEADER}"
        )
        try:
            rest = check_tree(tree.parse(unwrapped.text), addresses=addresses, allow_secrets=allow_secrets)
        except DocumentError as error:
            return Checked([header, _fatal(error)], {}, [], "unknown", unwrapped.wrapping)
        return rest._replace(findings=[header, *rest.findings], kind="unknown", wrapping=unwrapped.wrapping)
    try:
        root = tree.parse(unwrapped.text)
        checked = check_tree(root, addresses=addresses, allow_secrets=allow_secrets)
    except DocumentError as error:
        return Checked([_fatal(error)], {}, [], "cloud-config", unwrapped.wrapping)
    return checked._replace(wrapping=unwrapped.wrapping)


def check_data(config: t.Any, *, addresses: t.Mapping[str, str] | None = None, allow_secrets: bool = False) -> Checked:
    """Apply every rule to a description in the neutral model. Never fails."""
    try:
        return check_tree(tree.from_data(config), neutral=True, addresses=addresses, allow_secrets=allow_secrets)
    except DocumentError as error:
        return Checked([_fatal(error)], {}, [])


def _fatal(error: DocumentError) -> Finding:
    return Finding(error.rule, ERROR, error.line, "", error.message)
