# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests that change the machine: pytest tests/integration, as root."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, as unknown ones are errors."""
    config.addinivalue_line("markers", "hosts: boots local hosts; needs root and a Debian machine")
    config.addinivalue_line("markers", "etcd: starts etcd and a discovery service on loopback, from Debian packages")
