# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Local machines for ``make up``, Molecule, fault tests and benchmarks: systemd-nspawn with systemd as PID 1.

``plan``, ``render`` and ``aptsources`` are pure, and ``packages`` lists what is installed where; ``image``, ``network``
and ``guest`` change the machine; ``cluster`` puts them together and ``cli`` is the command line. Standard library only,
because this runs before any virtual environment exists.
"""

from __future__ import annotations
