# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is **PRIVATE** to the collection. It can have breaking changes at any time.
# Do not use this code from other collections or standalone plugins and modules!

"""One run at a time, on the controller and on hosts. A lock ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import time

BETWEEN_TRIES = 0.1


def take(descriptor: int, timeout: float) -> bool:
    """Lock an open file or directory against other processes until it is closed.

    :param timeout: seconds to wait for somebody else
    :returns: False when somebody else still had it then
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(BETWEEN_TRIES)
        else:
            return True
