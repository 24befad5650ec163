# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cluster that examples are deployed to."""

from __future__ import annotations

import pytest
from support.cluster_access import machines_of
from support.deployed import Cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """All machines."""
    return Cluster(machines_of("machines"))
