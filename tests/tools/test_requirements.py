# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock of the development tools belongs to its list, and pins everything."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path(__file__).resolve().parent.parent.parent / "requirements"
# logical lines: a pin with its hashes
PINS = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", (FOLDER / "dev.txt").read_text())).splitlines()


def wanted() -> dict[str, str]:
    """Name of each package of the list, to the reason given for it."""
    lines = [line for line in (FOLDER / "dev.in").read_text().splitlines() if line and not line.startswith("#")]
    return {line.partition("#")[0].strip().lower(): line.partition("#")[2].strip() for line in lines}


def test_every_package_has_a_reason() -> None:
    assert all(wanted().values())


def test_lock_has_every_package_of_the_list() -> None:
    assert set(wanted()) <= {Requirement(pin.partition("--hash")[0]).name for pin in PINS}, "run `make lock`"


def test_lock_pins_one_version_with_hashes() -> None:
    for pin in PINS:
        requirement, *hashes = pin.split("--hash=")
        assert re.search(r"^[^=]+==[^=]+", requirement), pin
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", value) for value in hashes), pin


def test_lock_names_no_server() -> None:
    assert "://" not in (FOLDER / "dev.txt").read_text()
