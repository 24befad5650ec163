# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
name: openpgp_fingerprints
short_description: Fingerprints of the OpenPGP keys in a text
version_added: 1.0.0
author:
  - flotilla.cluster contributors (@flotilla-cluster)
description:
  - Returns the fingerprint of each primary key in ASCII-armored public keys, so that a role can refuse a key that is
    not the one asked for, and a file that holds one more.
  - Subkeys have no part in it; they are bound to their primary key by signatures, which apt checks.
options:
  _input:
    description: The text, one or several blocks that begin with C(-----BEGIN PGP PUBLIC KEY BLOCK-----).
    type: str
    required: true
"""

EXAMPLES = r"""
---
- name: Refuse another key
  ansible.builtin.assert:
    that: >-
      lookup('ansible.builtin.file', 'docker.asc') | flotilla.cluster.openpgp_fingerprints
      == ['0123456789ABCDEF0123456789ABCDEF01234567']
"""

RETURN = r"""
_value:
  description: Fingerprints in upper case, in the order of the keys; none when the text holds no key that can be read.
  type: list
  elements: str
  sample: [0123456789ABCDEF0123456789ABCDEF01234567]
"""

import base64
import binascii
import hashlib
import re
import typing as t

BLOCK = re.compile(
    r"^-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*\n(.*?)^-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL | re.MULTILINE
)
PUBLIC_KEY = 6  # the tag of a primary key's packet


def dearmored(text: str) -> t.Iterator[bytes]:
    """The bytes of each block. Raises ValueError for one that is no base64."""
    for block in BLOCK.findall(text.replace("\r\n", "\n")):
        # headers end with an empty line, and a line that begins with "=" is a checksum
        _headers, separator, body = block.partition("\n\n") if not block.startswith("\n") else ("", "\n", block)
        lines = [line.strip() for line in (body if separator else block).splitlines()]
        try:
            yield base64.b64decode("".join(line for line in lines if line and not line.startswith("=")), validate=True)
        except binascii.Error as error:
            raise ValueError(f"a key is no base64: {error}") from error


def packets(data: bytes) -> t.Iterator[tuple[int, bytes]]:
    """Tag and body of each packet (RFC 9580, section 4.2). Raises ValueError for what ends too early."""
    at = 0
    while at < len(data):
        tag, at, length = _header(data, at)
        if at + length > len(data):
            raise ValueError("a packet of the key is longer than the key")
        yield tag, data[at : at + length]
        at += length


def _header(data: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the packet that begins there, where its body begins, and how long that is."""
    first, rest = data[at], data[at + 1 : at + 6]
    if not first & 0x80:
        raise ValueError("a packet of the key has no header")
    if first & 0x40:
        size, length = _new_length(rest)
        return first & 0x3F, at + 1 + size, length
    size = (1, 2, 4, 0)[first & 3]
    if not size or len(rest) < size:
        raise ValueError("a packet of the key has no length")
    return (first >> 2) & 0x0F, at + 1 + size, int.from_bytes(rest[:size], "big")


def _new_length(rest: bytes) -> tuple[int, int]:
    """Octets of a length in the newer form, and the length."""
    if rest and rest[0] < 192:
        return 1, rest[0]
    if len(rest) > 1 and rest[0] < 224:
        return 2, ((rest[0] - 192) << 8) + rest[1] + 192
    if len(rest) > 4 and rest[0] == 255:
        return 5, int.from_bytes(rest[1:5], "big")
    raise ValueError("a packet of the key has a length that no key has")


def fingerprint(body: bytes) -> str:
    """Fingerprint of a key's packet (RFC 9580, section 5.5.4). Raises ValueError for a version that is too old."""
    version = body[0] if body else 0
    if version == 4:
        # the standard names this algorithm; what apt trusts is the key, not this sum
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()
    if version == 6:
        return hashlib.sha256(b"\x9b" + len(body).to_bytes(4, "big") + body).hexdigest().upper()
    raise ValueError(f"a key is of version {version}; 4 and 6 are known")


def openpgp_fingerprints(text: str) -> list[str]:
    """Return what RETURN describes."""
    try:
        return [fingerprint(body) for data in dearmored(str(text)) for tag, body in packets(data) if tag == PUBLIC_KEY]
    except ValueError:
        return []


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Return the filters by name."""
        return {"openpgp_fingerprints": openpgp_fingerprints}
