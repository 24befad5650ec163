# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""follow: keeps a file, such as a proxy's configuration, in step with what is announced.

In a template, a line ``@each SERVICE TEXT`` becomes TEXT once for each copy of the service, with its ``$name`` (one of
its own), ``$address``, ``$port``, ``$endpoint`` (both), ``$machine`` and ``$unit``. A line ``@none SERVICE TEXT``
becomes TEXT when there is none. All other lines stay as they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from string import Template
from typing import Any, NamedTuple

from .client import Stream, place_of
from .errors import CtlError, UsageError
from .session import Session, tell

Json = dict[str, Any]

SECTION = "X-Template"
RETRY = 0.5  # seconds between two attempts to reach fleetd, or to reload
RELOADS = 3  # attempts at a reload before the next sign of life of fleetd
COMMAND_TIMEOUT = 60.0  # seconds that a check or a reload may take
_DIRECTIVE = re.compile(r"\s*@(?P<kind>each|none)\s+(?P<service>\S+)\s(?P<text>.*)", re.DOTALL)
_FIELDS = ("address", "endpoint", "machine", "name", "port", "unit")


class Line(NamedTuple):
    """A line of a template: ``kind`` is each, none, or "" for one that stays as it is."""

    kind: str
    service: str
    text: str


def parse(text: str) -> list[Line]:
    """The lines of a template. Raises :class:`CtlError` for one that cannot be meant so."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = _DIRECTIVE.fullmatch(line)
        if match is None:
            if line.lstrip().startswith("@"):
                raise CtlError(f"line {number} of the template is {line.strip()!r}: give @each or @none, SERVICE, TEXT")
            found.append(Line("", "", line))
            continue
        kind, service, content = match["kind"], match["service"], match["text"]
        if kind == "each":
            try:
                Template(content).substitute(dict.fromkeys(_FIELDS, ""))
            except (KeyError, ValueError) as exc:
                fields = ", ".join(f"${field}" for field in _FIELDS)
                raise CtlError(
                    f"line {number} of the template has {exc} where only {fields} may stand; a dollar is $$"
                ) from None
        found.append(Line(kind, service, content))
    return found


def services_of(template: Sequence[Line]) -> list[str]:
    return sorted({line.service for line in template if line.kind})


def fields_of(copy: Json) -> dict[str, str]:
    """What may stand in a line about a copy. Two copies never have one name, as a proxy wants it."""
    unit = str(copy["unit"])
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", unit.removesuffix(".service"))
    return {
        "address": str(copy["address"]),
        "endpoint": place_of(copy),
        "machine": str(copy["machine"]),
        "name": f"{name}-{str(copy['machine'])[:8]}",
        "port": str(copy["port"]),
        "unit": unit,
    }


def render(template: Sequence[Line], announced: Sequence[Json]) -> str:
    """The file, the same for the same copies in whatever order."""
    lines: list[str] = []
    for line in template:
        copies = sorted(
            (fields_of(copy) for copy in announced if copy["service"] == line.service), key=lambda copy: copy["name"]
        )
        if line.kind == "each":
            lines += [Template(line.text).substitute(copy) for copy in copies]
        elif not line.kind or not copies:
            lines.append(line.text)
    return "".join(f"{line}\n" for line in lines)


def read_template(path: str, in_unit: bool) -> list[Line]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as exc:
        raise CtlError(f"cannot read the template {path}: {exc}") from None
    if in_unit:
        from ..unitfile import UnitFileError, parse_unit

        try:
            options = parse_unit(text)
        except UnitFileError as exc:
            raise CtlError(f"{path} is no unit file: {exc}") from None
        text = "".join(f"{option.value}\n" for option in options if option.section == SECTION)
    if not text.strip():
        raise CtlError(f"the template {path} is empty" + (f": it has no section {SECTION}" if in_unit else ""))
    return parse(text)


class Target:
    """The file that is kept, with what checks it and what tells of it."""

    def __init__(self, path: str, check: str, reload: str) -> None:
        self._path = path
        self._check = shlex.split(check)
        self._reload = shlex.split(reload)
        # Whoever died between writing and telling may have been this one's predecessor.
        self.due = bool(self._reload)
        self._refused = ""

    @property
    def exists(self) -> bool:
        return os.path.exists(self._path)

    def write(self, text: str) -> bool:
        """Make the file hold this text, unless it does or the check refuses it; whether it was changed."""
        if text == self._refused:
            return False
        with contextlib.suppress(OSError, UnicodeDecodeError), open(self._path, encoding="utf-8") as file:
            if file.read() == text:
                return False
        new = f"{self._path}.new"
        try:
            with open(new, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as exc:
            raise CtlError(f"cannot write {new}: {exc.strerror}") from None
        problem = run([word.replace("{}", new) for word in self._check]) if self._check else ""
        if problem:
            os.unlink(new)
            self._refused = text
            tell(f"{self._path} stays as it is: {problem}")
            return False
        self._refused = ""
        os.replace(new, self._path)
        self.due = bool(self._reload)
        return True

    def reload(self) -> None:
        """Run the reload that is due; one that fails stays due."""
        problem = run(self._reload)
        self.due = bool(problem)
        tell(f"cannot reload, trying again: {problem}" if problem else "reloaded")


def run(words: list[str]) -> str:
    """Run a command; why it failed, or ""."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
    except OSError as exc:
        return f"{words[0]}: {exc.strerror}"
    except subprocess.TimeoutExpired:
        return f"{shlex.join(words)} did not end within {COMMAND_TIMEOUT:g} s"
    if done.returncode == 0:
        return ""
    said = " ".join(done.stdout.decode("utf-8", "replace").split())
    return f"{shlex.join(words)} ended with {done.returncode}" + (f": {said[-1000:]}" if said else "")


def _announced(line: bytes) -> list[Json] | None:
    """What a line of the stream tells; None for a sign of life."""
    try:
        return list(json.loads(line)["announcements"]) if line.strip() else None
    except (ValueError, KeyError, TypeError):
        raise CtlError(f"fleetd tells {line[:80]!r}, which makes no sense") from None


def _changes(session: Session, services: Sequence[str]) -> Iterator[list[Json] | None]:
    """All that is announced, now and after each change, for ever; None once in a while. Without fleetd: nothing."""
    said = ""
    while True:
        stream: Stream | None = None
        try:
            stream = session.client.follow_announcements(services)
            said = ""
            for line in stream.lines():
                yield _announced(line)
        except CtlError as exc:
            if str(exc) != said:
                tell(f"{exc} (trying again)")
            said = str(exc)
        finally:
            if stream is not None:
                stream.close()
        yield None
        time.sleep(RETRY)


def _once(session: Session, template: Sequence[Line], target: Target) -> int:
    try:
        announced = session.client.announcements()
    except CtlError as exc:
        if target.exists:
            tell(f"the file stays as it is: {exc}")
            return 0
        announced = []
        tell(f"nothing is taken for announced: {exc}")
    target.write(render(template, announced))
    if not target.exists:
        raise CtlError("the file was refused, and there is none from before")
    return 0


def follow(session: Session, arguments: list[str]) -> int:
    options = session.options
    if len(arguments) != 2:
        raise UsageError("give TEMPLATE and FILE")
    template = read_template(arguments[0], options.on("unit"))
    target = Target(arguments[1], options.text("check"), options.text("reload"))
    if options.on("once"):
        return _once(session, template, target)
    for announced in _changes(session, services_of(template)):
        if announced is not None:
            target.write(render(template, announced))
        for attempt in range(RELOADS):
            if target.due:
                time.sleep(RETRY if attempt else 0)
                target.reload()
    return 0
