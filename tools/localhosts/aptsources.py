# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure: the machine's own apt configuration, read so that images are made from the same archives."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .plan import HostsError

_ONE_LINE = re.compile(
    r"^(?P<type>deb)\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)$"
)
_POCKETS = ("", "-updates", "-security")
_SCHEMES = ("http://", "https://", "file:", "ftp://")


@dataclass(frozen=True)
class Source:
    """One archive of binary packages; ``signed_by`` is a keyring path or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self) -> str:
        """The archive as a line of sources.list; an image checks it with its own keyring."""
        return f"deb {self.uri} {self.suite} {' '.join(self.components)}"


def parse(files: Mapping[str, str]) -> list[Source]:
    """Archives that are enabled in apt's files (path -> text; its end tells the format), in the order of the paths."""
    found: list[Source] = []
    for path in sorted(files):
        found += _parse_deb822(files[path]) if path.endswith(".sources") else _parse_lines(files[path])
    return found


def _parse_lines(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
            found.append(
                Source(
                    match["uri"],
                    match["suite"],
                    tuple(match["components"].split()),
                    options.get("signed-by", ""),
                )
            )
    return found


def _parse_deb822(text: str) -> list[Source]:
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
            "0",
        ):
            continue
        signed_by = fields.get("signed-by", "")
        found += [
            Source(
                uri,
                suite,
                tuple(fields.get("components", "").split()),
                signed_by if signed_by.startswith("/") else "",
            )
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        ]
    return found


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            fields[name] = f"{fields.get(name, '')} {line.strip()}".strip()
        elif ":" in line:
            name, _colon, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def distribution(sources: Iterable[Source], codename: str, suite: str) -> list[Source]:
    """The distribution's own archives for ``suite``, the release first: those of the machine's ``codename``, renamed.

    Other archives (a vendor's, backports) have other suites or no component main and are left out.
    Raises HostsError when the machine has no usable archive of its release.
    """
    chosen: dict[Source, None] = {}
    for pocket in _POCKETS:
        for source in sources:
            if source.suite == codename + pocket and "main" in source.components and source.uri.startswith(_SCHEMES):
                chosen[Source(source.uri, suite + pocket, source.components, source.signed_by)] = None
    result = list(chosen)
    if not result or result[0].suite != suite:
        raise HostsError(
            f"no archive of Debian {codename} with component main is configured in /etc/apt/sources.list or"
            " /etc/apt/sources.list.d: the base image is made from the machine's own archives, so add one"
        )
    return result


def image_options(dump: str) -> str:
    """Lines of ``apt-config dump`` on how archives are reached and checked, as an apt.conf file for the image."""
    wanted = ("acquire::http::", "acquire::https::", "acquire::check-", "acquire::retries")
    kept = []
    for line in dump.splitlines():
        words = shlex.split(line.rstrip(";")) if line.endswith(";") else []
        if len(words) == 2 and words[1] and words[0].lower().startswith(wanted):
            kept.append(line)
    return "".join(f"{line}\n" for line in kept)
