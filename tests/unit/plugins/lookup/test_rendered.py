# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleLookupError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.flotilla.cluster.plugins.lookup import rendered


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The lookup on roles of the test; the plugin loader knows no collections here."""
    monkeypatch.setattr(rendered, "ROLES", str(tmp_path))
    (tmp_path / "web/templates").mkdir(parents=True)
    (tmp_path / "web/files").mkdir()
    (tmp_path / "web/templates/unit.j2").write_text(
        "{{ ansible_managed | comment }}\n{% for word in words %}\n{{ word }}\n{% endfor %}\nend\n"
    )
    (tmp_path / "web/templates/list.j2").write_text("[1, {{ one }}]")
    (tmp_path / "web/files/script").write_text("echo {{ not a template }}\n")

    def run(*terms, role="web", raw=False, **variables):
        lookup = rendered.LookupModule(loader=DataLoader(), templar=Templar(loader=DataLoader(), variables=variables))
        lookup.set_options = lambda **_options: None
        lookup.get_option = {"role": role, "raw": raw}.get
        return lookup.run(list(terms), variables=variables)

    return run


def test_templates_see_the_variables_of_the_host(run):
    assert run("unit.j2", words=["a", "b"]) == ["#\n# Ansible managed\n#\na\nb\nend\n"]
    assert run("unit.j2", words=[], ansible_managed="ours") == ["#\n# ours\n#\nend\n"]


def test_a_text_stays_a_text(run):
    assert run("list.j2", "list.j2", one=1) == ["[1, 1]", "[1, 1]"]


def test_raw_files_are_not_templates(run):
    assert run("script", raw=True) == ["echo {{ not a template }}\n"]


def test_a_missing_file_is_named(run):
    with pytest.raises(AnsibleLookupError, match=r"cannot read .*web/templates/nothing\.j2"):
        run("nothing.j2")
