# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Documents as trees whose nodes know their line, from YAML text or from data.

PyYAML reads the text; it is asked for its nodes instead of values, because a value does not say where it stood, whether
it was quoted, or that its key was there twice.
"""

from __future__ import annotations

import base64
import binascii
import email
import email.message
import json
import typing as t
import zlib

try:
    import yaml
except ImportError:  # the module says so; on a controller it is always there
    yaml = None  # type: ignore[assignment]

MAX_DEPTH = 30
MAX_NODES = 200_000
MAX_BYTES = 8_000_000


class DocumentError(Exception):
    """A text that is no document. C(line) is 0 when no single line is to blame."""

    def __init__(self, message: str, rule: str = "yaml", line: int = 0) -> None:
        super().__init__(message)
        self.message, self.rule, self.line = message, rule, line


class Node(t.NamedTuple):
    """One value.

    C(kind) is map, list, str, int, float, bool or null. C(value) holds the children of a map as C((key, line of the
    key, node)), those of a list as nodes, and is a scalar's value otherwise. C(text) is a scalar as it was written.
    C(literal): it is text by its quotes or by its block, or comes from data. C(colon): it has a colon and no quotes
    inside of brackets, where the parsers of that time took every colon for that of a key.
    """

    kind: str
    value: t.Any
    line: int = 0
    text: str = ""
    literal: bool = False
    colon: bool = False


def parse(text: str) -> Node:
    """The tree of a YAML document.

    :raises DocumentError: in one sentence, with the line
    """
    try:
        # not the parser in C: a text of brackets alone ends it with its stack, and the program with it
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = text.splitlines()
        if mark and mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]:
            raise DocumentError("is indented with a tab; YAML takes spaces only", "tab", mark.line + 1) from None
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise DocumentError(f"is not YAML: {said}", "yaml", mark.line + 1 if mark else 0) from None
    except yaml.YAMLError as error:
        raise DocumentError(f"is not YAML: {' '.join(str(error).split())[:200]}") from None
    except RecursionError:
        raise DocumentError(f"is nested too deeply; {MAX_DEPTH} levels are allowed", "limit") from None
    except (ValueError, OverflowError, UnicodeError) as error:
        raise DocumentError(f"is not YAML: {' '.join(str(error).split())[:200]}") from None
    return Node("map", []) if root is None else _Reader().node(root, 0)


_KINDS = {"int": "int", "float": "float", "bool": "bool", "null": "null"}


class _Reader:
    """PyYAML's nodes to ours; counts them, as aliases can make few lines into very many."""

    def __init__(self) -> None:
        self.count = 0

    def node(self, found: t.Any, depth: int, flow: bool = False) -> Node:
        self.count += 1
        line = found.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise DocumentError(f"is nested too deeply; {MAX_DEPTH} levels are allowed", "limit", line)
        if self.count > MAX_NODES:
            raise DocumentError(f"has more than {MAX_NODES} values, aliases counted as often as used", "limit", line)
        if isinstance(found, yaml.MappingNode):
            flow = bool(found.flow_style)
            return Node("map", [self._pair(key, value, depth, flow) for key, value in found.value], line)
        if isinstance(found, yaml.SequenceNode):
            return Node("list", [self.node(item, depth + 1, bool(found.flow_style)) for item in found.value], line)
        scalar = self._scalar(found, line)
        return scalar._replace(colon=flow and found.style is None and ":" in found.value)

    def _pair(self, key: t.Any, value: t.Any, depth: int, flow: bool) -> tuple[str, int, Node]:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise DocumentError("has a key that is not a word; give keys without brackets", "yaml", line)
        return key.value, line, self.node(value, depth + 1, flow)

    def _scalar(self, found: t.Any, line: int) -> Node:
        text = found.value
        kind = _KINDS.get(found.tag.rpartition(":")[2], "str")
        value: t.Any = text
        if kind == "bool":
            value = text.lower() in ("yes", "true", "on")
        elif kind == "int":
            value = _integer(text)
        elif kind == "float":
            value = _float(text)
        if value is None:
            kind, value = "str", text
        if kind == "null":
            value = None
        return Node(kind, value, line, text, found.style is not None)


def _integer(text: str) -> int | None:
    """A YAML 1.1 integer; None for what a reader of YAML 1.2 or Go would take for text, such as 13:00."""
    plain = text.replace("_", "")
    digits = plain.lstrip("+-")
    try:
        if len(digits) > 1 and digits[0] == "0" and digits[1:].isdigit():
            return int(plain, 8)
        return int(plain, 0)
    except ValueError:
        return None


def _float(text: str) -> float | None:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return None


def from_data(value: t.Any, depth: int = 0) -> Node:
    """The tree of plain data, such as a module's option.

    :raises DocumentError: when it is not made of mappings, lists and scalars
    """
    if depth > MAX_DEPTH:
        raise DocumentError(f"is nested too deeply; {MAX_DEPTH} levels are allowed", "limit")
    if value is None:
        return Node("null", None)
    if isinstance(value, bool):
        return Node("bool", value, text=str(value).lower())
    if isinstance(value, int):
        return Node("int", value, text=str(value))
    if isinstance(value, float):
        return Node("float", value, text=repr(value))
    if isinstance(value, str):
        return Node("str", value, text=value, literal=True)
    if isinstance(value, t.Mapping):
        return Node("map", [(str(key), 0, from_data(item, depth + 1)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return Node("list", [from_data(item, depth + 1) for item in value])
    raise DocumentError(f"holds a {type(value).__name__}; mappings, lists, text, numbers and truth values are allowed")


class Unwrapped(t.NamedTuple):
    """What a file of user-data is.

    C(kind) is cloud-config, script, ignition or unknown. C(wrapping) lists what was around it, outermost first: gzip,
    mime, base64.
    """

    kind: str
    text: str
    wrapping: tuple[str, ...] = ()


def inflate(data: bytes, what: str) -> bytes:
    """Contents of gzip data.

    :raises DocumentError: when it is none, or far larger than any document
    """
    try:
        engine = zlib.decompressobj(31)
        found = engine.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise DocumentError(f"{what} is not gzip data: {error}", "encoding") from None
    if engine.unconsumed_tail:
        raise DocumentError(f"{what} is larger than {MAX_BYTES} bytes when unpacked", "limit")
    if not engine.eof:
        raise DocumentError(f"{what} is gzip data that was cut off", "encoding")
    return found


def unwrap(data: bytes) -> Unwrapped:
    """Find the document in a file: gzip and multipart mail are opened.

    :raises DocumentError: when it cannot be read
    """
    wrapping: list[str] = []
    if data[:2] == b"\x1f\x8b":
        data = inflate(data, "the document")
        wrapping.append("gzip")
    if len(data) > MAX_BYTES:
        raise DocumentError(f"is larger than {MAX_BYTES} bytes", "limit")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DocumentError(f"is not UTF-8 text: byte {data[error.start]:#04x}", "encoding", line) from None
    if text.lower().startswith(("content-type: multipart/", "mime-version:")):
        text = _mime_part(text)
        wrapping.append("mime")
    return Unwrapped(_kind(text), text, tuple(wrapping))


def _mime_part(text: str) -> str:
    """The first part of a multipart document that is a cloud-config."""
    parts = [part for part in email.message_from_string(text).walk() if not part.is_multipart()]
    for part in parts:
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            body = payload.decode("utf-8", "replace")
            if part.get_content_type() == "text/cloud-config" or _kind(body) == "cloud-config":
                return body
    kinds = ", ".join(part.get_content_type() for part in parts) or "none"
    raise DocumentError(f"is multipart without a part of type text/cloud-config; its parts: {kinds}", "mime")


def _kind(text: str) -> str:
    first = text.split("\n", 1)[0].rstrip()
    if first == "#cloud-config":
        return "cloud-config"
    if text.startswith("#!"):
        return "script"
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return "unknown"
        if isinstance(found, dict) and isinstance(found.get("ignition"), dict):
            return "ignition"
    return "unknown"


def decode_content(content: str, encoding: str) -> bytes:
    """Contents of a file of C(write_files).

    :raises DocumentError: when it is not what its encoding says
    """
    data = content.encode("utf-8", "surrogatepass")
    if encoding in ("", None):
        return data
    words = encoding.split("+")
    if words[-1] in ("b64", "base64"):
        try:
            data = base64.b64decode("".join(content.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise DocumentError(f"content is not base64: {error}", "undecodable-content") from None
    if words[0] in ("gz", "gzip"):
        data = inflate(data, "content")
    return data
