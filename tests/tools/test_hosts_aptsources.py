# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the machine's own apt configuration."""

from __future__ import annotations

import pytest
from localhosts import aptsources
from localhosts.aptsources import Source
from localhosts.plan import HostsError

DEB822 = """\
# written by the installer
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
# a comment inside
Components: main

Enabled: no
Types: deb
URIs: http://mirror.example/off
Suites: bookworm
Components: main

Types: deb-src
URIs: http://mirror.example/source-only
Suites: bookworm
Components: main

Types: deb
URIs: http://vendor.example/node
Suites: nodistro
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
"""

LINES = """\
deb http://mirror.example/debian/ bookworm main contrib # the release
deb [arch=amd64 signed-by=/etc/apt/keyrings/d.gpg] http://mirror.example/security bookworm-security main
deb-src http://mirror.example/debian bookworm main
#deb http://mirror.example/off bookworm main
deb cdrom:[Debian]/ bookworm main
deb http://vendor.example/apt bookworm stable
deb http://vendor.example/apt bookworm-vendor main
deb http://mirror.example/debian bookworm-backports main
"""


def test_deb822() -> None:
    found = aptsources.parse({"/etc/apt/sources.list.d/debian.sources": DEB822})
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found == [
        Source("http://mirror.example/debian", "bookworm", ("main", "contrib"), keyring),
        Source("http://mirror.example/debian", "bookworm-updates", ("main", "contrib"), keyring),
        Source("http://mirror.example/security", "bookworm-security", ("main",)),
        Source("http://vendor.example/node", "nodistro", ("main",)),
    ]


def test_one_line_format_and_choice_of_the_distributions_own() -> None:
    found = aptsources.distribution(aptsources.parse({"/etc/apt/sources.list": LINES}), "bookworm", "bookworm")
    assert found == [
        Source("http://mirror.example/debian/", "bookworm", ("main", "contrib")),
        Source("http://mirror.example/security", "bookworm-security", ("main",), "/etc/apt/keyrings/d.gpg"),
    ]
    assert found[0].line() == "deb http://mirror.example/debian/ bookworm main contrib"


def test_another_release_from_the_same_archives() -> None:
    found = aptsources.distribution(aptsources.parse({"x.sources": DEB822}), "bookworm", "trixie")
    assert [source.suite for source in found] == ["trixie", "trixie-updates", "trixie-security"]


def test_an_archive_listed_twice_counts_once() -> None:
    texts = {"a.list": LINES, "b.list": LINES}
    assert len(aptsources.distribution(aptsources.parse(texts), "bookworm", "bookworm")) == 2


@pytest.mark.parametrize(
    "text", ["", "deb http://m.example/ bookworm-updates main\n", "deb http://m.example/ trixie main\n"]
)
def test_no_archive_of_the_release(text: str) -> None:
    with pytest.raises(HostsError, match="no archive of Debian bookworm"):
        aptsources.distribution(aptsources.parse({"a.list": text}), "bookworm", "bookworm")


def test_options_that_reach_and_check_archives_are_carried_over() -> None:
    dump = (
        'APT "";\nAcquire "";\nAcquire::http::Proxy "http://proxy.example:3128";\nAcquire::http "";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::Languages:: "en";\nDir "/";\n'
        'Acquire::Retries "3";\nAcquire::IndexTargets::deb::Packages::MetaKey "$(COMPONENT)/x";\n'
    )
    assert aptsources.image_options(dump) == (
        'Acquire::http::Proxy "http://proxy.example:3128";\nAcquire::Check-Valid-Until "false";\n'
        'Acquire::Retries "3";\n'
    )
