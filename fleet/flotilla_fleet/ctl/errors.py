# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ends a command: both are told in one sentence."""

from __future__ import annotations


class CtlError(Exception):
    """The command failed; exit status 1."""


class UsageError(Exception):
    """The command line makes no sense; exit status 2."""
