# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible.errors import AnsibleLookupError
from ansible_collections.flotilla.cluster.plugins.lookup import kept_passwords


@pytest.fixture
def run(tmp_path):
    """The lookup in a folder of the test; the plugin loader knows no collections here."""

    def run(*terms, keep=True):
        lookup = kept_passwords.LookupModule()
        lookup.set_options = lambda **_options: None
        lookup.get_option = {"directory": str(tmp_path / "users"), "keep": keep}.get
        (found,) = lookup.run(list(terms))
        return found

    return run


def test_passwords_are_random_kept_and_for_the_owner_alone(run, tmp_path):
    made = run("root", "app")
    assert list(made) == ["root", "app"]
    assert all(re.fullmatch("[A-Za-z0-9]{40}", password) for password in made.values())
    assert made["root"] != made["app"]
    assert run("app", "root") == made
    assert (tmp_path / "users").stat().st_mode & 0o777 == 0o700
    for name, password in made.items():
        path = tmp_path / "users" / name
        assert path.read_text() == f"{password}\n"
        assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "users").iterdir()) == ["app", "root"]


def test_check_mode_keeps_none_and_uses_those_that_are_kept(run, tmp_path):
    assert len(run("root", keep=False)["root"]) == 40
    assert not (tmp_path / "users").exists()
    made = run("root")
    assert run("root", keep=False) == made


def test_all_who_ask_at_the_same_time_get_the_same(run):
    names = [f"user-{number}" for number in range(20)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        found = list(pool.map(lambda number: run(*names), range(8)))
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("name", ["", "../root", "a/b", ".hidden"])
def test_a_name_is_the_name_of_a_file(run, name):
    with pytest.raises(AnsibleLookupError, match="is no name of a file"):
        run(name)


def test_an_empty_file_is_told(run, tmp_path):
    (tmp_path / "users").mkdir()
    (tmp_path / "users/root").write_text("\n")
    with pytest.raises(AnsibleLookupError, match=r"users/root is empty: write the password into it that etcd knows"):
        run("root")


def test_a_folder_that_cannot_be_made_is_told(run, tmp_path):
    (tmp_path / "users").write_text("a file")
    with pytest.raises(AnsibleLookupError, match=r"users/root: Not a directory"):
        run("root")
