# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this doc fragment is PRIVATE to the collection. It can change in breaking ways at any time.

from __future__ import annotations


class ModuleDocFragment:
    # What every module says about itself; the module adds C(support) to each.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return the status it would leave behind without changing anything.
  diff_mode:
    description: Returns what changed, or would change in C(check_mode), when the play runs in diff mode.
  idempotent:
    description:
      - When run twice with the same arguments and nothing else changed in between, the second run
        changes nothing and reports so.
"""

    # Modules that only read.
    INFO_MODULE = r"""
options: {}
attributes:
  check_mode:
    support: full
    details:
      - This module never changes anything.
  diff_mode:
    support: N/A
    details:
      - This module never changes anything.
  idempotent:
    support: full
    details:
      - This module never changes anything.
"""

    ACTIONGROUP_ETCD = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/flotilla.cluster.etcd) in C(module_defaults) to set options for this module.
    support: full
    membership:
      - flotilla.cluster.etcd
"""

    ACTIONGROUP_FLEET = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/flotilla.cluster.fleet) in C(module_defaults) to set options for this module.
    support: full
    membership:
      - flotilla.cluster.fleet
"""
