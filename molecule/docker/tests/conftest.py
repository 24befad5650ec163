# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of the cluster, and the host that is a stranger to them."""

from __future__ import annotations

import pytest
from support.cluster_access import Machine, machines_of


@pytest.fixture(scope="session")
def machines() -> list[Machine]:
    """All machines of the cluster."""
    return machines_of("cluster")


@pytest.fixture(scope="session")
def stranger() -> Machine:
    """The host with podman."""
    return machines_of("stranger")[0]
