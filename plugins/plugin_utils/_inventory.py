# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this plugin util is PRIVATE to the collection.
# It can change in breaking ways at any time.

"""What the inventory plugins have in common: their file, their options, and what is derived from variables."""

from __future__ import annotations

import typing as t

from ansible.plugins.inventory import BaseInventoryPlugin, Constructable


class ConstructedInventory(BaseInventoryPlugin, Constructable):
    """A plugin whose file is called C(<KIND>.yml) or C(<KIND>.yaml), perhaps with something before it."""

    KIND = ""

    def verify_file(self, path: str) -> bool:
        """Whether a file may be one for this plugin."""
        base: t.Any = super()  # ansible-core's plugins have no annotations
        return bool(base.verify_file(path)) and path.endswith((f"{self.KIND}.yml", f"{self.KIND}.yaml"))

    def parse(self, inventory: t.Any, loader: t.Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        plugin: t.Any = self
        base: t.Any = super()
        base.parse(inventory, loader, path, cache)
        plugin._read_config_data(path)
        self.fill(inventory, path)

    def fill(self, inventory: t.Any, path: str) -> None:
        """Add hosts, groups and variables; the options of the file at C(path) are read."""
        raise NotImplementedError

    def construct(self, inventory: t.Any, name: str) -> None:
        """Add what compose, groups and keyed_groups make of a host whose variables are set."""
        plugin: t.Any = self
        option = plugin.get_option
        known, strict = inventory.get_host(name).get_vars(), option("strict")
        plugin._set_composite_vars(option("compose"), known, name, strict)
        plugin._add_host_to_composed_groups(option("groups"), known, name, strict)
        plugin._add_host_to_keyed_groups(option("keyed_groups"), known, name, strict)
