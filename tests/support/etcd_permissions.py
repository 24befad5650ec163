# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each part of a fleetd may write, asked of a running cluster's gateway without harm to it.

The table is written down here once more, from docs/design.md: what the collection grants is what is judged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

PREFIX = "/_coreos.com/fleet/"
ALLOWED, DENIED = 0, 7
"""gRPC codes."""
KEYS = (
    *("unit/x.service", "target/x.service", "drain/x", "move/x.service", "leader"),
    *(
        f"{kind}/{{{whose}}}{rest}"
        for kind, rest in (
            *(("assign", "/x.service"), ("state", "/x.service"), ("presence", ""), ("metadata", "/x")),
            *(("ask", "/1"), ("answer", "/1/0"), ("announce", "/web/web@1.service")),
        )
        for whose in ("own", "other")
    ),
)
WRITES = {
    "machine": ("presence/{own}", "state/{own}/", "ask/{own}/", "answer/{own}/", "announce/{own}/"),
    "engine": ("leader", "target/", "assign/", "move/"),
    "api": ("unit/", "metadata/", "drain/", "move/", "ask/", "answer/"),
}
Ask = Callable[[str, dict[str, Any]], tuple[int, str]]
"""Asks the gateway as the user: path and body to status and answer."""


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


NEVER = {"key": _b64(f"{PREFIX}leader"), "target": "VERSION", "result": "LESS", "version": "0"}
"""A comparison that does not hold: etcd judges the permissions of what would be done, and does nothing."""


def expected(part: str, own: str, other: str) -> dict[str, int]:
    """Code of a write to each key, by a part of the machine ``own``; one key is not the fleet's at all."""
    ids = {"own": own, "other": other}
    table = {"/elsewhere": DENIED}
    for key in KEYS:
        mine = any(key == item or (item.endswith("/") and key.startswith(item)) for item in WRITES[part])
        table[PREFIX + key.format(**ids)] = ALLOWED if mine else DENIED
    return table


def _code(answer: tuple[int, str]) -> int:
    status, text = answer
    return ALLOWED if status == 200 else int(json.loads(text)["code"])


def found(ask: Ask, table: dict[str, int], *, nested: bool) -> dict[str, dict[str, int]]:
    """Codes of each way to write each key of the table.

    ``nested`` asks for transactions in transactions, too, which old versions of etcd do not judge. A plain put, and one
    that returns what was there, is tried only where the table has it denied.
    """
    ways: dict[str, dict[str, int]] = {"txn": {}, "delete": {}, "nested": {}, "put": {}}
    for key, code in table.items():
        put = {"request_put": {"key": _b64(key), "value": _b64("x")}}
        delete = {"request_delete_range": {"key": _b64(key)}}
        ways["txn"][key] = _code(ask("/v3/kv/txn", {"compare": [NEVER], "success": [put]}))
        ways["delete"][key] = _code(ask("/v3/kv/txn", {"compare": [NEVER], "success": [delete]}))
        if nested:
            inner = {"request_txn": {"compare": [NEVER], "success": [put]}}
            ways["nested"][key] = _code(ask("/v3/kv/txn", {"compare": [NEVER], "success": [inner]}))
        if code == DENIED:
            body = {**put["request_put"], "prev_kv": True}
            ways["put"][key] = _code(ask("/v3/kv/put", body))
    return ways


def differences(ask: Ask, part: str, own: str, other: str, *, nested: bool) -> list[str]:
    """Where what was found is not the table, a line each."""
    table = expected(part, own, other)
    return [
        f"{part}, {way} {key}: {code}, not {table[key]}"
        for way, codes in found(ask, table, nested=nested).items()
        for key, code in codes.items()
        if code != table[key]
    ]


def reads_of_all(ask: Ask) -> int:
    """Code of reading every key there is."""
    return _code(ask("/v3/kv/range", {"key": _b64("\0"), "range_end": _b64("\0")}))
