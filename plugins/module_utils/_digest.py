# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""Sums of large files, on the controller and on hosts."""

from __future__ import annotations

import hashlib

_BLOCK = 1 << 20


def sha256_of(path: str) -> str:
    """SHA-256 of a file in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()
