# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the variables of each role, from its meta/argument_specs.yml, between two markers of its README.md.

Without a marker in the README the section goes to its end. With --check nothing is written, and the exit code is 1
when a README is not what it would be.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from antsibull_docs_parser import dom
from antsibull_docs_parser.parser import Context, parse

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- variables: written by `make docs` from meta/argument_specs.yml -->"
END = "<!-- end of variables -->"

Spec = Mapping[str, Any]


def paragraphs(text: str | list[str] | None) -> list[str]:
    """A description (text, or a list of paragraphs) in Markdown, one line for each paragraph.

    Raises ValueError for markup that Ansible does not know.
    """
    listed = [text] if isinstance(text, str) else text or []
    parsed = parse([str(paragraph).strip() for paragraph in listed], Context())
    return [" ".join("".join(map(markdown, paragraph)).split()) for paragraph in parsed]


def markdown(part: dom.AnyPart) -> str:
    """One piece of a description in Markdown; plainer than the parser's own renderer, which escapes every dot."""
    if isinstance(part, dom.ErrorPart):
        raise ValueError(part.message)
    if isinstance(part, dom.TextPart):
        return re.sub(r"([*_`\[\]])", r"\\\1", part.text).replace("<", "&lt;")
    if isinstance(part, (dom.OptionNamePart, dom.ReturnValuePart)):
        return f"`{part.name}`" if part.value is None else f"`{part.name}={part.value}`"
    if isinstance(part, dom.LinkPart):
        return f"[{part.text}]({part.url})"
    if isinstance(part, dom.URLPart):
        return f"<{part.url}>"
    if isinstance(part, dom.BoldPart):
        return f"**{part.text}**"
    if isinstance(part, (dom.ItalicPart, dom.RSTRefPart)):
        return f"*{part.text}*"
    if isinstance(part, dom.PluginPart):
        return f"`{part.plugin.fqcn}`"
    if isinstance(part, dom.HorizontalLinePart):
        return ""
    return f"`{code_text(part)}`"


def code_text(part: dom.CodePart | dom.OptionValuePart | dom.EnvVariablePart | dom.ModulePart) -> str:
    """The text of a piece that is set as code."""
    if isinstance(part, dom.CodePart):
        return part.text
    if isinstance(part, dom.OptionValuePart):
        return part.value
    return part.name if isinstance(part, dom.EnvVariablePart) else part.fqcn


def code(value: object) -> str:
    """A value as it would be written in YAML, set as code. Text is set as it is, so that templates stay readable."""
    return f"`{' '.join(value.split()) if isinstance(value, str) and value else json.dumps(value)}`"


def type_name(option: Spec) -> str:
    """The type of an option, "list of str" for lists."""
    name = str(option.get("type", "str"))
    return f"{name} of {option['elements']}" if option.get("elements") else name


def row(name: str, option: Spec) -> str:
    """One line of a table."""
    default = "required" if option.get("required") else code(option["default"]) if "default" in option else ""
    text = paragraphs(option.get("description"))
    if option.get("choices"):
        text.append("One of " + ", ".join(code(choice) for choice in option["choices"]) + ".")
    cells = (f"`{name}`", type_name(option), default, " ".join(text))
    # a bar ends a cell, even one within code
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def tables(options: Spec, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """The table of these options, then one for each option that has options of its own.

    :arg path: names of the options around these, outermost first.
    """
    head = [f"Keys of `{' > '.join(path)}`:", ""] if path else []
    yield [
        *head,
        "| key | type | default | |" if path else "| variable | type | default | |",
        "|---|---|---|---|",
        *(row(name, option) for name, option in options.items()),
    ]
    for name, option in options.items():
        if option.get("options"):
            yield from tables(option["options"], (*path, name))


def render(specs: Spec) -> str:
    """All entry points of a role as Markdown.

    :arg specs: the value of ``argument_specs``.
    """
    blocks = []
    for entry_point, spec in specs.items():
        if len(specs) > 1:
            title = f"### Entry point `{entry_point}`"
            blocks.append("\n\n".join([title, *paragraphs(spec.get("short_description"))]))
        if spec.get("options"):
            blocks += ["\n".join(table) for table in tables(spec["options"])]
        else:
            blocks.append("No variables.")
    return "\n\n".join(blocks) + "\n"


def insert(readme: str, section: str) -> str:
    """A README with the section between its markers, or at its end with a heading when it has none.

    Raises ValueError when there is only one of the markers.
    """
    if (BEGIN in readme) != (END in readme):
        raise ValueError(f"has one of the markers {BEGIN!r} and {END!r} but not the other; write both or none")
    if BEGIN not in readme:
        readme = f"{readme.rstrip()}\n\n## Variables\n\n{BEGIN}\n{END}\n"
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{section}\n{END}{after}"


def expected(role: Path) -> str:
    """What the README of a role should hold.

    Raises ValueError, in one sentence, when README.md or the specification is missing or not as it should be.
    """
    specs = role / "meta" / "argument_specs.yml"
    readme = role / "README.md"
    for path in (specs, readme):
        if not path.is_file():
            raise ValueError(f"{path}: file is missing; every role has one")
    try:
        return insert(readme.read_text(), render(yaml.safe_load(specs.read_text())["argument_specs"]))
    except ValueError as error:
        raise ValueError(f"{readme}: {error}") from error


def main() -> int:
    """Writes or checks the README of every role; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a README is stale")
    parser.add_argument("roles", nargs="*", type=Path, help="folders of roles (default: all in roles/)")
    arguments = parser.parse_args()

    problems = 0
    for role in arguments.roles or sorted((ROOT / "roles").glob("*/")):
        readme = role / "README.md"
        try:
            text = expected(role)
        except ValueError as error:
            print(f"role_docs: {error}", file=sys.stderr)
            problems += 1
            continue
        if text == readme.read_text():
            continue
        if arguments.check:
            print(f"role_docs: {readme}: is stale; run `make docs`", file=sys.stderr)
            problems += 1
        else:
            readme.write_text(text)
            print(f"role_docs: {readme} written")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
