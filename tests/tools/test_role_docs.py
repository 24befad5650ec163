# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of variables in the READMEs of roles."""

from __future__ import annotations

import pytest
from role_docs import BEGIN, END, insert, paragraphs, render


@pytest.mark.parametrize(
    ("markup", "markdown"),
    [
        ("Set O(demo_x=1) or V(a|b).", "Set `demo_x=1` or `a|b`."),
        ("M(ansible.builtin.copy), P(ansible.builtin.env#lookup)", "`ansible.builtin.copy`, `ansible.builtin.env`"),
        ("C(x), E(HOME), B(very) I(new).", "`x`, `HOME`, **very** *new*."),
        (
            "L(text,https://flotilla.example/), U(https://a.example).",
            "[text](https://flotilla.example/), <https://a.example>.",
        ),
        ("A <name> with *, _ and [x].\nSecond line.", "A &lt;name> with \\*, \\_ and \\[x\\]. Second line."),
    ],
)
def test_markup(markup: str, markdown: str) -> None:
    assert paragraphs(markup) == [markdown]


def test_markup_that_ansible_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="O"):
        paragraphs("O(unclosed")


def test_table() -> None:
    options = {
        "demo_size": {"type": "int", "default": 3, "description": "How many.", "choices": [3, 5]},
        "demo_file": {"type": "path", "required": True, "description": ["First.", "Second."]},
        "demo_name": {"default": "{{ x | default('') }}", "description": "A name."},
        "demo_nodes": {
            "type": "list",
            "elements": "dict",
            "description": "Nodes.",
            "options": {"name": {"type": "str", "default": "", "description": "Inner."}},
        },
    }
    assert render({"main": {"options": options}}) == (
        "| variable | type | default | |\n"
        "|---|---|---|---|\n"
        "| `demo_size` | int | `3` | How many. One of `3`, `5`. |\n"
        "| `demo_file` | path | required | First. Second. |\n"
        "| `demo_name` | str | `{{ x \\| default('') }}` | A name. |\n"
        "| `demo_nodes` | list of dict |  | Nodes. |\n"
        "\n"
        "Keys of `demo_nodes`:\n"
        "\n"
        "| key | type | default | |\n"
        "|---|---|---|---|\n"
        '| `name` | str | `""` | Inner. |\n'
    )


def test_entry_points_have_headings_when_there_are_two() -> None:
    text = render({"main": {"short_description": "All."}, "restart": {"short_description": "Restart B(only)."}})
    assert text == (
        "### Entry point `main`\n\nAll.\n\nNo variables.\n\n"
        "### Entry point `restart`\n\nRestart **only**.\n\nNo variables.\n"
    )


def test_section_is_replaced_and_the_rest_kept() -> None:
    before = f"# demo\n\n{BEGIN}\nold\n{END}\n\n## Licence\n"
    after = insert(before, "new\n")
    assert after == f"# demo\n\n{BEGIN}\n\nnew\n\n{END}\n\n## Licence\n"
    assert insert(after, "new\n") == after


def test_section_is_added_to_a_readme_without_markers() -> None:
    after = insert("# demo\n", "new\n")
    assert after == f"# demo\n\n## Variables\n\n{BEGIN}\n\nnew\n\n{END}\n"
    assert insert(after, "new\n") == after


def test_one_marker_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="one of the markers"):
        insert(f"# demo\n{BEGIN}\n", "new\n")
