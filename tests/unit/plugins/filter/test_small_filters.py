# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.flotilla.cluster.plugins.filter.sealed import sealed
from ansible_collections.flotilla.cluster.plugins.filter.union_of_groups import union_of_groups


def test_a_group_stands_once_in_a_pattern():
    assert union_of_groups(["etcd", "machines"]) == "etcd:machines"
    assert union_of_groups(["all", "all"]) == "all"


def test_the_seal_depends_on_what_is_wanted_alone():
    first = sealed({"a": [1, {"b": "c"}], "d": {}})
    assert first["a"] == [1, {"b": "c"}]
    assert first["seal"] == sealed({"d": {}, "a": [1, {"b": "c"}]})["seal"]
    assert first["seal"] != sealed({"d": {}, "a": [1, {"b": "d"}]})["seal"]


def test_what_is_no_json_is_refused():
    with pytest.raises(AnsibleFilterError, match="cannot be written as JSON"):
        sealed({"a": object()})
