# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.flotilla.cluster.plugins.filter.reset_services import reset_services

WEB = {
    "name": "web.service",
    "sockets": ["web.socket"],
    "files": [{"path": "/etc/web.conf", "content": "secret", "sensitive": True}],
    "links": [{"path": "/usr/local/bin/web", "target": "/opt/web/web"}],
    "trees": [{"root": "/usr/lib/web", "packed": "x"}],
    "ready": [{"type": "tcp", "port": 80}],
}
OTHER = {"name": "other.service"}


def test_units_are_stopped_before_anything_is_removed():
    found = reset_services([WEB, OTHER])
    assert [(item["name"], item["state"], item["enabled"], item["absent"]) for item in found] == [
        ("web.service", "stopped", False, []),
        ("other.service", "stopped", False, []),
    ]
    assert found[0]["sockets"] == ["web.socket"]
    assert "secret" not in str(found)


def test_all_that_is_written_is_removed_and_more():
    first, second = reset_services([WEB, OTHER], remove=True, also=["/var/lib/web", "/etc/web.conf"])
    assert first["absent"] == ["/etc/web.conf", "/usr/local/bin/web", "/usr/lib/web", "/var/lib/web"]
    assert second["absent"] == []
