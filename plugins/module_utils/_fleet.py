# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Note that this module util is PRIVATE to the collection. It can change in breaking ways at any time.

"""The one fleet client of the modules: HTTP API v1 over the Unix socket or TLS.

Works with this collection's fleetd and with upstream 1.0.0. What only ours has (why a unit is not placed,
the stream of events) is empty or missing with the other.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ansible_collections.flotilla.cluster.plugins.module_utils._http import (
    ClusterError,
    HttpError,
    OptionError,
    Reply,
    Tls,
    base_url,
    check_seconds,
    printable,
)
from ansible_collections.flotilla.cluster.plugins.module_utils._http_stream import LineStream, StreamClient
from ansible_collections.flotilla.cluster.plugins.module_utils._unit_file import UnitOption, unit_hash

# The documentation that belongs to it: plugins/doc_fragments/_fleet.py.
FLEET_ARGUMENTS: dict[str, dict[str, t.Any]] = {
    "endpoint": {"type": "str", "default": "unix:///run/fleet.sock"},
    "ca_cert": {"type": "path", "default": "/etc/flotilla/pki/fleet-api-ca.crt"},
    "client_cert": {"type": "path", "default": "/etc/flotilla/pki/fleet-api.crt"},
    # the path is no secret, and hiding it would hide it in error messages
    "client_key": {"type": "path", "default": "/etc/flotilla/pki/fleet-api.key", "no_log": False},
    "request_timeout": {"type": "float", "default": 10.0},
}

# fleetd says 503 while it cannot reach etcd, which an election or its own start makes last seconds
UNAVAILABLE_SECONDS = 10.0
_UNAVAILABLE_PAUSE = 0.5
# a list of 100 units to a page: a million units
_MOST_PAGES = 10_000


class FleetError(ClusterError):
    """An error answer of the API.

    :ivar status: the HTTP status, which is also the code in the body
    :ivar message: the API's own words
    """

    def __init__(self, asked: str, status: int, message: str, fix: str) -> None:
        super().__init__(f"{asked}: fleet answered {message or 'no reason'} (status {status}); {fix}")
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Unit:
    """A unit of the cluster. C(current_state) is empty for a global unit; C(reason) says why it is not placed."""

    name: str
    options: tuple[UnitOption, ...]
    desired_state: str
    current_state: str = ""
    machine_id: str = ""
    reason: str = ""

    @property
    def hash(self) -> str:
        return unit_hash(self.options)


@dataclass(frozen=True)
class UnitState:
    """What one machine's systemd says of one unit; C(hash) is that of the content it runs."""

    name: str
    machine_id: str
    hash: str
    load: str
    active: str
    sub: str


@dataclass(frozen=True)
class Machine:
    """A machine that is present. C(draining): its units are being taken off, or are."""

    id: str
    primary_ip: str
    metadata: t.Mapping[str, str]
    draining: bool = False


class FleetClient:
    """Speaks to the fleetd behind one endpoint, which stands for the whole cluster."""

    def __init__(self, endpoint: str, *, tls: Tls | None = None, request_timeout: float = 10.0) -> None:
        """:raises OptionError: for an endpoint or a time that cannot be"""
        check_seconds("request_timeout", request_timeout)
        # the way upstream's own client takes a path alone
        value = f"unix://{endpoint}" if endpoint.startswith("/") else endpoint
        self.endpoint = base_url("endpoint", value, sockets=True)
        self._http = StreamClient(self.endpoint, tls=tls, timeout=request_timeout)

    def close(self) -> None:
        self._http.close()

    def units(self) -> list[Unit]:
        """All units, by name."""
        return [_unit(reply, item) for reply, item in self._pages("/units", "units")]

    def unit(self, name: str) -> Unit | None:
        """One unit, None when there is none of that name."""
        reply = self._ask("GET", f"/units/{_path(name)}", expected=(200, 404))
        return None if reply.status == 404 else _unit(reply, reply.json_object())

    def put_unit(self, name: str, desired_state: str, options: t.Sequence[UnitOption] | None = None) -> None:
        """Creates a unit, replaces its content, or with no options sets its desired state alone.

        The content never goes without the state: without one the API takes C(inactive).
        """
        body: dict[str, t.Any] = {"name": name, "desiredState": desired_state}
        if options is not None:
            body["options"] = [option._asdict() for option in options]
        self._ask("PUT", f"/units/{_path(name)}", body, expected=(201, 204))

    def delete_unit(self, name: str) -> bool:
        """Deletes a unit; False when there was none."""
        return self._ask("DELETE", f"/units/{_path(name)}", expected=(204, 404)).status == 204

    def states(self, *, unit: str | None = None, machine: str | None = None) -> list[UnitState]:
        """What the machines say of their units, by name, then machine; of one unit or by one machine alone."""
        asked = {"unitName": unit, "machineID": machine}
        query = {key: value for key, value in asked.items() if value is not None}
        return [_state(reply, item) for reply, item in self._pages("/state", "states", query)]

    def machines(self) -> list[Machine]:
        """All machines, by id."""
        return [_machine(reply, item) for reply, item in self._pages("/machines", "machines")]

    def set_drain(self, machine: str, draining: bool) -> None:
        """Takes all units off a machine and places none there, or ends that."""
        self._only_ours("POST" if draining else "DELETE", f"/machines/{_path(machine)}/drain")

    def patch_metadata(self, machine: str, changes: t.Mapping[str, str]) -> None:
        """Sets metadata of a machine; "" takes a key away."""
        operations = [
            {
                "op": "add" if value else "remove",
                "path": f"/{machine}/metadata/{key}",
                **({"value": value} if value else {}),
            }
            for key, value in changes.items()
        ]
        self._only_ours("PATCH", "/machines", operations)

    def _only_ours(self, method: str, path: str, body: t.Any = None) -> None:
        """A request that upstream's fleetd knows nothing of."""
        reply = self._ask(method, path, body, expected=(204, 404, 405))
        if reply.status != 204:
            fix = "run this collection's fleetd (fleet_source: collection), and check that the machine is still there"
            raise FleetError(reply.asked, reply.status, _message(reply) or "", fix)

    def events(self) -> LineStream | None:
        """A line for each change in the cluster, None when this fleetd does not tell."""
        return self._http.lines("/fleet/v1/events")

    def _pages(
        self, path: str, field: str, query: t.Mapping[str, str] | None = None
    ) -> t.Iterator[tuple[Reply, dict[str, t.Any]]]:
        """The objects of a list that comes in pages, each with the answer it came in."""
        parameters = dict(query or {})
        token = ""
        for _page in range(_MOST_PAGES):
            reply = self._ask("GET", path + (f"?{urlencode(parameters)}" if parameters else ""))
            data = reply.json_object()
            # an empty list is left out
            items = data.get(field) or []
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise _strange(reply, f"{field} is not a list of objects")
            for item in items:
                yield reply, item
            following = data.get("nextPageToken") or ""
            if not isinstance(following, str) or (following and following == token):
                raise _strange(reply, "nextPageToken leads nowhere")
            if not following:
                return
            token = parameters["nextPageToken"] = following
        raise OptionError(f"{self.endpoint} goes on after {_MOST_PAGES} pages of {path}; check that it is a fleet API")

    def _ask(
        self,
        method: str,
        path: str,
        body: t.Any = None,
        *,
        expected: t.Sequence[int] = (200,),
    ) -> Reply:
        """One request; every one of the API can be sent twice with the same effect as once."""
        end = time.monotonic() + UNAVAILABLE_SECONDS
        again = True
        while True:
            try:
                reply = self._http.request(method, f"/fleet/v1{path}", body)
            except HttpError as error:
                if error.kind != "closed" or not again:
                    raise
                again = False
                continue
            # a page of any other server may be 404, too
            if reply.status in expected and (reply.status < 400 or _message(reply) is not None):
                return reply
            if reply.status != 503 or time.monotonic() >= end:
                raise _refusal(reply)
            time.sleep(_UNAVAILABLE_PAUSE)


def _path(name: str) -> str:
    return quote(name, safe="@:")


def _message(reply: Reply) -> str | None:
    """The words of an error body, None when it is none."""
    try:
        error = reply.json_object().get("error")
    except HttpError:
        return None
    message = error.get("message", "") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None


def _refusal(reply: Reply) -> HttpError | FleetError:
    message = _message(reply)
    if message is None:
        return reply.unusable("answer that is not fleet's", "check that endpoint is fleet's API")
    fix = {
        400: "correct the unit",
        403: "use a certificate that is allowed to do this",
        404: "check that endpoint is fleet's API",
        409: "give the unit's content",
        500: "look at fleetd's log on that machine",
        503: "check that etcd is up and that fleetd may reach it",
    }.get(reply.status, "check that endpoint is fleet's API of version 1")
    return FleetError(reply.asked, reply.status, printable(message, 500), fix)


def _strange(reply: Reply, what: str) -> HttpError:
    return reply.unusable(f"JSON object in which {what}", "check that endpoint is fleet's API of version 1")


def _text(reply: Reply, data: t.Mapping[str, t.Any], name: str) -> str:
    # fields without a value are left out
    value = data.get(name, "")
    if not isinstance(value, str):
        raise _strange(reply, f"{name} is not a text")
    return value


def _unit(reply: Reply, data: dict[str, t.Any]) -> Unit:
    options = data.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, dict) for option in options):
        raise _strange(reply, "options is not a list of objects")
    return Unit(
        name=_name(reply, data, "name"),
        options=tuple(
            UnitOption(*(_text(reply, option, field) for field in ("section", "name", "value"))) for option in options
        ),
        desired_state=_text(reply, data, "desiredState"),
        current_state=_text(reply, data, "currentState"),
        machine_id=_text(reply, data, "machineID"),
        reason=_text(reply, data, "reason"),
    )


def _name(reply: Reply, data: dict[str, t.Any], field: str) -> str:
    name = _text(reply, data, field)
    if not name:
        raise _strange(reply, f"{field} is missing")
    return name


def _state(reply: Reply, data: dict[str, t.Any]) -> UnitState:
    return UnitState(
        name=_name(reply, data, "name"),
        machine_id=_text(reply, data, "machineID"),
        hash=_text(reply, data, "hash"),
        load=_text(reply, data, "systemdLoadState"),
        active=_text(reply, data, "systemdActiveState"),
        sub=_text(reply, data, "systemdSubState"),
    )


def _machine(reply: Reply, data: dict[str, t.Any]) -> Machine:
    metadata = data.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise _strange(reply, "metadata is not an object")
    return Machine(
        id=_name(reply, data, "id"),
        primary_ip=_text(reply, data, "primaryIP"),
        metadata={key: _text(reply, metadata, key) for key in metadata},
        draining=data.get("draining") is True,
    )


def describe_machine(machine: Machine) -> dict[str, t.Any]:
    """A machine the way modules return it."""
    return {
        "id": machine.id,
        "primary_ip": machine.primary_ip,
        "metadata": dict(machine.metadata),
        "draining": machine.draining,
    }


def fleet_client(params: t.Mapping[str, t.Any]) -> FleetClient:
    """The client for the parameters of C(FLEET_ARGUMENTS)."""
    return FleetClient(
        params["endpoint"],
        tls=Tls.of(params),
        request_timeout=params["request_timeout"],
    )


def pause(events: LineStream | None, left: float, *, poll: float, patience: float, gather: float = 0.0) -> bool:
    """Waits until it is worth looking again; whether something has happened since. All times are in seconds.

    :param left: at most so long
    :param poll: how long without events
    :param patience: how long for an event, should one be lost
    :param gather: how long after an event, for others that come with it
    """
    if events is None or events.ended:
        time.sleep(min(left, poll))
        return False
    if not events.wait(min(left, patience)):
        return False
    time.sleep(min(left, gather))
    return True


def describe(unit: Unit, states: t.Iterable[UnitState]) -> dict[str, t.Any]:
    """A unit the way modules return it.

    :param states: of any units; those of others are left out
    """
    return {
        "name": unit.name,
        "desired_state": unit.desired_state,
        "current_state": unit.current_state,
        "machine_id": unit.machine_id,
        "reason": unit.reason,
        "hash": unit.hash,
        "states": [
            {
                "machine_id": state.machine_id,
                "hash": state.hash,
                "load": state.load,
                "active": state.active,
                "sub": state.sub,
            }
            for state in states
            if state.name == unit.name
        ],
    }
