# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleLookupError
from ansible_collections.flotilla.cluster.plugins.lookup import file_texts


@pytest.fixture
def run(tmp_path):
    """The lookup in a folder of the test; the plugin loader knows no collections here."""
    (tmp_path / "one.crt").write_text("first\n")
    (tmp_path / "folder.crt").mkdir()

    def run(*terms):
        lookup = file_texts.LookupModule()
        lookup.set_options = lambda **_options: None
        lookup.get_option = {"directory": str(tmp_path), "suffix": ".crt"}.get
        return lookup.run(list(terms))

    return run


def test_texts_come_by_name_and_a_missing_file_is_empty(run):
    assert run("one", "two") == [{"one": "first\n", "two": ""}]


def test_what_cannot_be_read_is_named(run):
    with pytest.raises(AnsibleLookupError, match=r"cannot read .*folder\.crt"):
        run("folder")
