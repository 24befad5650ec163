# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The description of the HTTP API that it gives of itself, for generators of client libraries.

Schemas, method names and paths are those of upstream's API v1; ``Unit.reason`` is ours.
"""

from __future__ import annotations

from typing import Any

from .model import JOB_STATES

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_STATE: Json = {"type": "string", "enum": list(JOB_STATES)}


def _schema(schema_id: str, /, **properties: Json) -> Json:
    return {"id": schema_id, "type": "object", "properties": properties}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": {"$ref": name}}


def _page(schema_id: str, field: str, item: str) -> Json:
    return _schema(schema_id, **{field: _list_of(item), "nextPageToken": _TEXT})


def _method(
    name: str,
    verb: str,
    path: str,
    text: str,
    query: tuple[str, ...] = (),
    request: str = "",
    response: str = "",
) -> Json:
    in_path = ["unitName"] if "{unitName}" in path else []
    parameters: Json = {key: {**_TEXT, "location": "path", "required": True} for key in in_path}
    parameters.update({key: {**_TEXT, "location": "query"} for key in query})
    method: Json = {
        "id": name,
        "description": text,
        "httpMethod": verb,
        "path": path,
        "parameters": parameters,
    }
    if in_path:
        method["parameterOrder"] = in_path
    if request:
        method["request"] = {"$ref": request}
    if response:
        method["response"] = {"$ref": response}
    return method


def _schemas() -> Json:
    metadata = {"type": "object", "properties": {}, "additionalProperties": _TEXT}
    found = [
        _schema("Machine", id=_TEXT, primaryIP=_TEXT, metadata=metadata),
        _page("MachinePage", "machines", "Machine"),
        _schema("UnitOption", section=_TEXT, name=_TEXT, value=_TEXT),
        _schema(
            "Unit",
            name=_TEXT,
            options=_list_of("UnitOption"),
            desiredState=_STATE,
            currentState=_STATE,
            machineID=_TEXT,
            reason=_TEXT,
        ),
        _page("UnitPage", "units", "Unit"),
        _schema(
            "UnitState",
            name=_TEXT,
            hash=_TEXT,
            machineID=_TEXT,
            systemdLoadState=_TEXT,
            systemdActiveState=_TEXT,
            systemdSubState=_TEXT,
            error=_TEXT,
        ),
        _page("UnitStatePage", "states", "UnitState"),
    ]
    return {schema["id"]: schema for schema in found}


def _resources() -> Json:
    token = ("nextPageToken",)
    one = "units/{unitName}"
    return {
        "Machines": {
            "List": _method(
                "fleet.Machine.List",
                "GET",
                "machines",
                "Machines that are present, one page of them.",
                query=token,
                response="MachinePage",
            ),
        },
        "Units": {
            "List": _method(
                "fleet.Unit.List",
                "GET",
                "units",
                "Units, one page of them.",
                query=token,
                response="UnitPage",
            ),
            "Get": _method("fleet.Unit.Get", "GET", one, "One unit.", response="Unit"),
            "Delete": _method("fleet.Unit.Delete", "DELETE", one, "Remove a unit."),
            "Set": _method(
                "fleet.Unit.Set",
                "PUT",
                one,
                "Create a unit, replace its content, or set its desired state.",
                request="Unit",
            ),
        },
        "UnitState": {
            "Get": _method(
                "fleet.UnitState.Get",
                "GET",
                "state/{unitName}",
                "The state of one unit on the first machine that has it.",
                response="UnitState",
            ),
            "List": _method(
                "fleet.UnitState.List",
                "GET",
                "state",
                "States of units on machines, one page of them.",
                query=(*token, "unitName", "machineID"),
                response="UnitStatePage",
            ),
        },
    }


def document() -> Json:
    """The document, ready for JSON."""
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "fleet:v1",
        "name": "schema",
        "version": "v1",
        "title": "fleet API",
        "description": "Systemd units over many machines.",
        "protocol": "rest",
        "labels": [],
        "baseUrl": "$ENDPOINT/fleet/v1/",
        "basePath": "/fleet/v1/",
        "rootUrl": "$ENDPOINT/",
        "servicePath": "fleet/v1/",
        "batchPath": "batch",
        "parameters": {},
        "auth": {},
        "schemas": _schemas(),
        "resources": {name: {"methods": methods} for name, methods in _resources().items()},
    }
