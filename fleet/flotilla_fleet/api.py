# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP API v1, as upstream's clients know it, over a :class:`~.store.Store`.

``make_app`` gives the application, ``make_runner`` what serves it with our limits. Where it differs
from upstream on purpose is listed in ``tests/fleet/test_contract.py``, with the reasons. New here:
``Unit.reason`` (why a wanted unit is not placed), ``namePrefix`` and ``withReason`` of ``/units``,
``GET /fleet/v1/events``, what a machine says of a unit (``/units/NAME/status``, ``journal``, ``restart``),
``/machines/ID/drain`` and ``/rebalance``, ``/announcements``, and roles over TCP.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import inspect
import json
import logging
import re
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from . import __version__, discovery
from .access import ORGANIZATION, Role, needed, role_of
from .announce import Announcement, AnnouncementError, Bulletin, check
from .connections import Connections
from .metrics import CONTENT_TYPE as METRICS_TYPE
from .metrics import Metrics
from .model import INACTIVE, JOB_STATES, JobState, Machine, Unit, UnitState
from .question import Answer, Question, QuestionError, command
from .store import Event, Store, StoreError, UnitView
from .unitfile import UnitFileError, UnitOption, check_options, check_requirements, unit_hash
from .unitname import UnitNameError, is_template, quote, validate_unit_name

log = logging.getLogger(__name__)
audit = logging.getLogger("flotilla_fleet.audit")

PREFIXES = ("/fleet/v1", "/v1-alpha")
TOKEN_LIMIT = 100  # items on a page
BODY_MAX = 1024 * 1024  # bytes
BODY_TIMEOUT = 30.0  # seconds a client may take to send its body
LINE_MAX = 16 * 1024  # bytes of a request line or a header: a name of 256 bytes, escaped, is 768
HEARTBEAT = 15.0  # seconds between two lines on an event stream
WRITE_TIMEOUT = 30.0  # seconds an event stream waits for a client to take what it is sent
CLIENT_CHECK = 2.0  # seconds between two looks whether a client still follows a journal
EVENTS_BEHIND = 10_000  # events a client may be behind before its stream is ended
PUT_ATTEMPTS = 10  # reads and writes of a unit that others keep changing

SERVER = f"fleetd/{__version__}"
_WRITES = (hdrs.METH_PUT, hdrs.METH_DELETE, hdrs.METH_PATCH, hdrs.METH_POST)
_METHODS = (*_WRITES, hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS)
_METADATA_PATH = re.compile(r"/([A-Za-z0-9_.-]+)/metadata/([A-Za-z0-9_.-]+)")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]


class ApiError(Exception):
    """A request that is answered with an error: status and message of the answer."""

    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message


# -- answers -------------------------------------------------------------------


def _json(body: Json, status: int = 200) -> web.Response:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return web.Response(body=text.encode(), status=status, content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _json({"error": {"code": status, "message": message}}, status)


def _filled(record: Json) -> Json:
    """Without the empty fields: the API leaves them out."""
    return {key: value for key, value in record.items() if value}


def unit_json(view: UnitView, listed: bool = False) -> Json:
    """A unit as the API shows it. A list shows a current state of global units, an item does not:
    upstream's two ways, kept."""
    unit = view.unit
    shows_state = listed or not unit.is_global
    return _filled(
        {
            "currentState": view.current if shows_state else "",
            "desiredState": unit.desired,
            "machineID": view.target.machine,
            "name": unit.name,
            "options": [_filled(option._asdict()) for option in unit.options],
            "reason": view.target.reason if unit.desired != INACTIVE else "",
        }
    )


def has_reason(view: UnitView) -> bool:
    """Whether there is something to tell of a wanted unit: it has no machine, or waits for something."""
    if view.unit.desired == INACTIVE:
        return False
    return bool(view.target.reason) or not (view.target.machine or view.unit.is_global)


def state_json(state: UnitState) -> Json:
    return _filled(
        {
            "error": state.error,
            "hash": state.hash,
            "machineID": state.machine,
            "name": state.name,
            "systemdActiveState": state.active,
            "systemdLoadState": state.load,
            "systemdSubState": state.sub,
        }
    )


def machine_json(machine: Machine) -> Json:
    return _filled(
        {"draining": machine.draining, "id": machine.id, "metadata": machine.metadata, "primaryIP": machine.ip}
    )


# -- pages ---------------------------------------------------------------------


def encode_token(limit: int, page: int) -> str:
    return base64.urlsafe_b64encode(struct.pack("<HH", limit, page)).decode()


def _decode_base64(token: str) -> bytes:
    """Raises :class:`ApiError` with the place, counted as upstream counts it."""
    bad = re.search(r"[^A-Za-z0-9_=-]", token)
    try:
        if bad is None:
            return base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except binascii.Error:
        pass
    at = bad.start() if bad else len(token.rstrip("=")) // 4 * 4
    raise ApiError(400, f"illegal base64 data at input byte {at}")


def page_of(tokens: Sequence[str], limit: int) -> int:
    """The page number (from 1 on) that the ``nextPageToken`` parameters ask for."""
    if not tokens:
        return 1
    if len(tokens) > 1:
        raise ApiError(400, "too many values for page token")
    raw = _decode_base64(tokens[0])
    if len(raw) != 4:
        raise ApiError(400, f"page token is {len(raw)} bytes long, not 4: use one that an answer gave")
    found_limit, page = struct.unpack("<HH", raw)
    if found_limit != limit:
        raise ApiError(400, f"token limit must be {limit}")
    if page == 0:
        raise ApiError(400, "token page must be greater than zero")
    return int(page)


def _page_json(
    request: web.Request, field: str, items: Sequence[Any], limit: int, show: Callable[[Any], Json]
) -> web.Response:
    page = page_of(request.query.getall("nextPageToken", []), limit)
    part = items[(page - 1) * limit : page * limit]
    # As upstream: a full page is followed by another one, even if that is empty.
    more = len(part) == limit and page < 0xFFFF
    token = encode_token(limit, page + 1) if more else ""
    return _json(_filled({field: [show(item) for item in part], "nextPageToken": token}))


# -- what a PUT asks for, and what is done about it ----------------------------


@dataclass(frozen=True)
class Wanted:
    """The body of a PUT, checked: no options (None) keep the content, "" is no desired state."""

    options: tuple[UnitOption, ...] | None
    desired: JobState | None


@dataclass(frozen=True)
class Step:
    """What a PUT does to the unit that is there: the answer, and what to write if anything."""

    status: int
    options: tuple[UnitOption, ...] | None
    desired: JobState
    write: bool = True


def decide_put(name: str, wanted: Wanted, stored: Unit | None) -> Step:
    """Raises :class:`ApiError` for a request that does not go with what is stored."""
    if stored is None and wanted.options is None:
        raise ApiError(409, "unit does not exist and options field empty")
    replaces = wanted.options is not None and (stored is None or unit_hash(wanted.options) != stored.hash)
    if not replaces and wanted.desired is None:
        raise ApiError(409, "must provide DesiredState to update existing unit")
    desired = wanted.desired or INACTIVE
    if is_template(name) and desired != INACTIVE:
        raise ApiError(400, f"cannot activate template {quote(name)}")
    if replaces:
        return Step(201, wanted.options, desired)
    return Step(204, None, desired, write=stored is None or stored.desired != desired)


def _body_error(reason: str) -> ApiError:
    return ApiError(400, f"unable to decode body: {reason}")


def _decode_body(raw: bytes) -> Any:
    if not raw.strip():
        raise _body_error("EOF")
    try:
        text = raw.decode("utf-8")
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair fails here
    except RecursionError:
        raise _body_error("it is nested too deeply") from None
    except UnicodeError as exc:
        raise _body_error(f"it is not UTF-8 text ({exc.reason if hasattr(exc, 'reason') else exc})") from None
    except ValueError as exc:
        raise _body_error(str(exc)) from None
    return value


_JSON_TYPES = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}


def _type_of(value: object) -> str:
    return _JSON_TYPES.get(type(value), "number")


def _field(record: Json, name: str, kind: type, where: str = "") -> Any:
    """A field of a JSON object; absent and null are the empty value of its type."""
    value = record.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise _body_error(f"field {where}{name} is of type {_type_of(value)}, not {_JSON_TYPES[kind]}")
    return value


def _options_of(items: list[Any]) -> tuple[UnitOption, ...] | None:
    options = []
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _body_error(f"options[{index}] is of type {_type_of(item)}, not object")
        where = f"options[{index}]."
        options.append(UnitOption(*(_field(item, key, str, where) for key in ("section", "name", "value"))))
    return tuple(options) or None


def _desired_of(text: str) -> JobState | None:
    if not text:
        return None
    for state in JOB_STATES:
        if text == state:
            return state
    raise ApiError(400, f"desiredState {quote(text)} is not one of {', '.join(JOB_STATES)}")


def wanted_of(name: str, body: Any) -> Wanted:
    """Check the decoded body of a PUT for the unit ``name``; raises :class:`ApiError`."""
    if not isinstance(body, dict):
        raise _body_error(f"it is of type {_type_of(body)}, not object")
    body_name = _field(body, "name", str)
    options = _options_of(_field(body, "options", list))
    state = _field(body, "desiredState", str)
    if body_name and body_name != name:
        raise ApiError(
            400,
            f"name in URL {quote(name)} differs from unit name in request body {quote(body_name)}",
        )
    try:
        validate_unit_name(name)
        if options:
            check_options(options)
            check_requirements(options)
    except UnitNameError as exc:
        raise ApiError(400, str(exc)) from None
    except UnitFileError as exc:
        raise ApiError(400, exc.message) from None
    return Wanted(options, _desired_of(state))


def _check_content_type(request: web.Request) -> None:
    values = request.headers.getall(hdrs.CONTENT_TYPE, [])
    if len(values) != 1:
        raise ApiError(415, f"expected 1 Content-Type, got {len(values)}")
    if values[0].partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "only acceptable Content-Type is application/json")


# -- changes of metadata -------------------------------------------------------


def _patch_of(item: Any) -> tuple[str, str, str]:
    if not isinstance(item, dict):
        raise _body_error(f"an operation is of type {_type_of(item)}, not object")
    op = item.get("op")
    if op not in ("add", "remove", "replace"):
        raise ApiError(400, "invalid op: expect add, remove, or replace")
    path = item.get("path")
    match = _METADATA_PATH.fullmatch(path) if isinstance(path, str) else None
    if match is None:
        raise ApiError(400, "machine metadata path invalid")
    if op == "remove":
        return match[1], match[2], ""
    value = item.get("value")
    if isinstance(value, dict):  # the form that upstream's code took, its documentation did not
        value = value.get("value")
    if not (isinstance(value, str) and value):
        raise ApiError(400, "invalid value: add and replace require a value")
    return match[1], match[2], value


def changes_of(body: Any) -> list[tuple[str, str, str]]:
    """(machine id, key, value or "") of each operation; raises :class:`ApiError`."""
    if not isinstance(body, list):
        raise _body_error(f"it is of type {_type_of(body)}, not array of operations")
    return [_patch_of(item) for item in body]


# -- who wrote what ------------------------------------------------------------


def _peer(request: web.Request) -> str:
    """Who is at the other end: the subject of its certificate, its uid and gid, or its address."""
    transport = request.transport
    if transport is None:
        return "unknown"
    certificate = transport.get_extra_info("peercert")
    sock = transport.get_extra_info("socket")
    if certificate:
        subject = ",".join(f"{key}={value}" for part in certificate.get("subject", ()) for key, value in part)
        return f"subject={quote(subject)} address={request.remote}"
    if sock is not None and sock.family == socket.AF_UNIX:
        size = struct.calcsize("3i")
        try:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        except OSError:  # gone already
            return "unknown"
        pid, uid, gid = struct.unpack("3i", credentials)
        return f"uid={uid} gid={gid} pid={pid}"
    return f"address={request.remote}"


@dataclass
class Note:
    """What the audit log says of a request beside who and with which result."""

    resource: str = "unknown"
    what: str = ""


# The note of the request that the running task answers. (A request's own storage wants keys that
# Debian 12's aiohttp does not have, and newer ones warn of any other.)
_NOTE: ContextVar[Note] = ContextVar("note")


def _log_write(request: web.Request, peer: str, status: int, message: str) -> None:
    note = _NOTE.get()
    what = note.what or f"path={quote(request.path)}"
    result = f"{status} {quote(message)}" if message else str(status)
    audit.info("%s %s %s by %s: %s", request.method, note.resource, what, peer, result)


# -- events --------------------------------------------------------------------


class EventHub:
    """One stream of the store for all clients that listen, open only while there is one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[asyncio.Queue[Event | None]]:
        """A queue of the changes from now on; None: the stream is lost, or the reader too slow."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(EVENTS_BEHIND)
        self._queues.add(queue)
        if self._task is None:
            self._task = asyncio.create_task(self._pump(), name="fleet-api-events")
        try:
            yield queue
        finally:
            self._queues.discard(queue)
            if not self._queues and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _pump(self) -> None:
        try:
            async for event in self._store.events():
                for queue in list(self._queues):
                    try:
                        queue.put_nowait(event)
                    except asyncio.QueueFull:
                        self._end(queue)
        except StoreError as exc:
            log.warning("event streams end, as the registry's stream is lost: %s", exc)
        except Exception:
            log.exception("event streams end")
        # Not cancelled, so there are listeners: the store's stream ended.
        self._task = None
        self.close()

    def _end(self, queue: asyncio.Queue[Event | None]) -> None:
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)

    def close(self) -> None:
        """End every client's stream."""
        for queue in list(self._queues):
            self._end(queue)


# -- the application -----------------------------------------------------------


class Api:
    """The handlers, and what they share."""

    def __init__(
        self,
        store: Store,
        machine_id: str,
        token_limit: int,
        metrics: Metrics,
        connections: Connections,
        bulletin: Bulletin | None,
    ) -> None:
        self.store = store
        self.bulletin = bulletin
        self.token_limit = token_limit
        self.metrics = metrics
        self.connections = connections
        self.hub = EventHub(store)
        metrics.counter("fleet_http_requests_total", "Requests answered by the API.")
        labels = {"machine_id": machine_id, "version": __version__}
        metrics.gauge("fleet_info", "The daemon that tells these metrics.", lambda: 1, labels)

    # machines

    async def list_machines(self, request: web.Request) -> web.Response:
        return _page_json(request, "machines", await self.store.machines(), self.token_limit, machine_json)

    async def patch_machines(self, request: web.Request) -> web.Response:
        changes = changes_of(_decode_body(await self._body(request)))
        _NOTE.get().what = " ".join(
            f"{machine}/{key}={quote(value) if value else '(removed)'}" for machine, key, value in changes
        )
        if changes:
            await self.store.patch_metadata(changes)
        return web.Response(status=204, content_type="application/json")

    # units

    async def list_units(self, request: web.Request) -> web.Response:
        views = await self.store.unit_views()
        prefix = request.query.get("namePrefix", "")
        if prefix:
            views = [view for view in views if view.unit.name.startswith(prefix)]
        if request.query.get("withReason", "") in ("1", "true"):
            views = [view for view in views if has_reason(view)]
        return _page_json(
            request,
            "units",
            views,
            self.token_limit,
            lambda view: unit_json(view, listed=True),
        )

    async def get_unit(self, request: web.Request) -> web.Response:
        view = await self.store.unit_view(request.match_info["name"])
        if view is None:
            raise ApiError(404, "unit does not exist")
        return _json(unit_json(view))

    async def put_unit(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        note = _NOTE.get()
        note.what = f"unit={quote(name)}"
        _check_content_type(request)
        wanted = wanted_of(name, _decode_body(await self._body(request)))
        # Most units that come with their content are new: that is tried first, and etcd says when it is not so.
        guess = bool(wanted.options)
        for _attempt in range(PUT_ATTEMPTS):
            view = None if guess else await self.store.unit_view(name)
            stored = None if view is None else view.unit
            step = decide_put(name, wanted, stored)
            options = stored.options if step.options is None and stored else step.options or ()
            note.what = f"unit={quote(name)} desired={step.desired} hash={unit_hash(options)}"
            if not step.write or await self.store.put_unit(name, step.options, step.desired, stored):
                return web.Response(status=step.status)
            guess = False
        raise ApiError(
            409,
            f"unit {quote(name)} was changed by others during {PUT_ATTEMPTS} attempts to write it, try again",
        )

    async def delete_unit(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        note = _NOTE.get()
        note.what = f"unit={quote(name)}"
        digest = await self.store.delete_unit(name)
        if digest is None:
            raise ApiError(404, "unit does not exist")
        note.what += f" hash={digest or 'unknown'}"
        return web.Response(status=204)

    # operating

    async def _machine_of(self, request: web.Request, name: str) -> str:
        """The machine that a question about a unit goes to: the one named, or the unit's only one."""
        asked = request.query.get("machineID", "")
        view = await self.store.unit_view(name)
        if view is None:
            raise ApiError(404, "unit does not exist")
        _NOTE.get().what = f"unit={quote(name)} hash={view.unit.hash}"
        if asked:
            return await self._present(asked)
        if view.unit.is_global:
            raise ApiError(400, f"unit {quote(name)} is global, name a machine with machineID")
        if not view.target.machine:
            raise ApiError(409, f"unit {quote(name)} is on no machine: {view.target.reason or 'it is inactive'}")
        return view.target.machine

    async def _present(self, machine: str) -> str:
        if machine not in [known.id for known in await self.store.machines()]:
            raise ApiError(404, f"machine {quote(machine)} is not present")
        return machine

    async def get_status(self, request: web.Request) -> web.StreamResponse:
        return await self._ask(request, Question("status", request.match_info["name"]))

    async def get_journal(self, request: web.Request) -> web.StreamResponse:
        lines = request.query.get("lines", "10")
        if not lines.isascii() or not lines.isdigit() or len(lines) > 6:
            raise ApiError(400, f"lines is {quote(lines)}, allowed are 0 to 100000")
        question = Question(
            "journal",
            request.match_info["name"],
            int(lines),
            request.query.get("output", "short"),
            request.query.get("follow", "") in ("1", "true"),
        )
        return await self._ask(request, question)

    async def post_restart(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        _NOTE.get().what = f"unit={quote(name)}"
        return await self._ask(request, Question("restart", name))

    async def _ask(self, request: web.Request, question: Question) -> web.StreamResponse:
        """Pass a question on; plain text, with the exit status in X-Exit-Status unless the text has no end."""
        try:
            command(question)
        except QuestionError as exc:
            raise ApiError(400, str(exc)) from None
        machine = await self._machine_of(request, question.unit)
        _NOTE.get().what += f" machine={quote(machine)}"
        answers = self.store.ask(machine, question)
        if question.follow:
            return await self._stream(request, answers)
        text, code = "", 0
        async for answer in answers:
            text += answer.text
            code = answer.code or 0
        return web.Response(text=text, headers={"X-Exit-Status": str(code), "X-Machine-ID": machine})

    async def _stream(self, request: web.Request, answers: AsyncIterator[Answer]) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={hdrs.CONTENT_TYPE: "text/plain; charset=utf-8", hdrs.CACHE_CONTROL: "no-store"}
        )
        async with contextlib.aclosing(cast(AsyncGenerator[Answer, None], answers)):
            # The machine answers at once, if only with nothing: what is wrong can still be told as an error.
            text = (await anext(answers, Answer(""))).text
            await response.prepare(request)
            async with contextlib.aclosing(_while_connected(request, answers)) as more:
                with contextlib.suppress(ConnectionError, asyncio.TimeoutError, StoreError):
                    await self._write(response, text)
                    async for answer in more:
                        await self._write(response, answer.text)
        return response

    @staticmethod
    async def _write(response: web.StreamResponse, text: str) -> None:
        if text:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await response.write(text.encode())

    async def set_drain(self, request: web.Request) -> web.Response:
        machine, draining = request.match_info["machine"], request.method == hdrs.METH_POST
        _NOTE.get().what = f"machine={quote(machine)}"
        if draining:
            await self._present(machine)
        await self.store.set_drain(machine, draining)
        return web.Response(status=204)

    async def rebalance(self, request: web.Request) -> web.Response:
        """Moves that would even out the machines; a POST asks for them to be made."""
        most = request.query.get("most", "10")
        if not most.isascii() or not most.isdigit() or not 1 <= int(most[:6]) <= 1000:
            raise ApiError(400, f"most is {quote(most)}, allowed are 1 to 1000")
        moves = await self.store.rebalance_moves(int(most))
        if request.method == hdrs.METH_POST:
            _NOTE.get().what = f"moves={len(moves)}"
            await self.store.request_moves(moves)
        return _json({"moves": [asdict(move) for move in moves]})

    # states

    async def list_states(self, request: web.Request) -> web.Response:
        states = await self.store.states(
            machine=request.query.get("machineID", ""), unit=request.query.get("unitName", "")
        )
        return _page_json(request, "states", states, self.token_limit, state_json)

    async def get_state(self, request: web.Request) -> web.Response:
        states = await self.store.states(unit=request.match_info["name"])
        if not states:
            raise ApiError(404, "unit state does not exist")
        return _json(state_json(states[0]))

    # the rest

    async def get_discovery(self, _request: web.Request) -> web.Response:
        return _json(discovery.document())

    async def get_metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.metrics.render().encode(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        """One JSON object a line for each change; an empty line at the start, and when quiet."""
        response = self._lines_response()
        async with self.hub.listen() as queue:
            await response.prepare(request)
            line = b"\n"
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                while line:
                    await self._write_line(response, line)
                    line = await _next_lines(queue)
        return response

    # announcements

    def _board(self) -> Bulletin:
        if self.bulletin is None:
            raise ApiError(503, "this fleetd keeps no announcements")
        return self.bulletin

    async def get_announcements(self, request: web.Request) -> web.StreamResponse:
        """What is announced of the services named, or of all; with ``watch`` a line with all of it for each change."""
        board, services = self._board(), set(request.query.getall("service", ()))
        if request.query.get("watch", "") not in ("1", "true"):
            return web.Response(body=announcements_line(await board.read(), services), content_type="application/json")
        response = self._lines_response()
        gone = self.connections.left(request.protocol)
        sent = b""
        async with board.listen() as news:
            await response.prepare(request)
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                while not (gone.is_set() or board.closing.is_set()):
                    line = b"" if board.found is None else announcements_line(board.found, services)
                    news.clear()
                    # An empty line is a sign of life.
                    await self._write_line(response, b"\n" if line == sent else line)
                    sent = line
                    await _first_of(HEARTBEAT, news, gone, board.closing)
        return response

    async def post_announcement(self, request: web.Request) -> web.StreamResponse:
        """Announce for as long as the client stays connected; a line tells when etcd has it."""
        board, query = self._board(), request.query
        service, unit, address = query.get("service", ""), query.get("unit", ""), query.get("address", board.address)
        _NOTE.get().what = f"service={quote(service)} unit={quote(unit)} address={quote(address)}"
        if not _is_local(request):
            raise ApiError(403, "a machine announces what runs on it: use its own socket")
        try:
            port = check(service, unit, address, query.get("port", ""))
        except AnnouncementError as exc:
            raise ApiError(400, str(exc)) from None
        _NOTE.get().what += f" port={port}"
        response = self._lines_response()
        gone = self.connections.left(request.protocol)
        async with board.announce(service, unit, address, port) as told:
            await response.prepare(request)
            announced = False
            with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                while not (gone.is_set() or board.closing.is_set()):
                    news = told.is_set() and not announced
                    announced = told.is_set()
                    await self._write_line(response, b'{"announced":true}\n' if news else b"\n")
                    await _first_of(HEARTBEAT, gone, board.closing, *([] if announced else [told]))
        return response

    @staticmethod
    def _lines_response() -> web.StreamResponse:
        return web.StreamResponse(headers={hdrs.CONTENT_TYPE: "application/x-ndjson", hdrs.CACHE_CONTROL: "no-store"})

    @staticmethod
    async def _write_line(response: web.StreamResponse, line: bytes) -> None:
        async with asyncio.timeout(WRITE_TIMEOUT):
            await response.write(line)

    async def nothing(self, _request: web.Request) -> web.Response:
        raise ApiError(405)

    async def _body(self, request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await request.read()
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {BODY_TIMEOUT:g} s") from None
        except web.HTTPRequestEntityTooLarge:
            raise ApiError(413, f"the body is larger than {BODY_MAX} bytes") from None

    # around every request

    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Run the handler; make errors into answers; count, and log what writes."""
        self.connections.begin(request.protocol)
        try:
            return await self._answer(request, handler)
        finally:
            self.connections.end(request.protocol)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        _NOTE.set(Note())
        writes = request.method in _WRITES
        peer = _peer(request) if writes else ""
        message = ""
        response: web.StreamResponse
        try:
            response = await handler(request)
        except ApiError as exc:
            message = exc.message
            response = _error(exc.status, message)
        except StoreError as exc:
            message = str(exc)
            response = _error(503, message)
        except web.HTTPException as exc:
            response = _error(exc.status, "")
        except Exception:
            log.exception("cannot answer %s %s", request.method, quote(request.path))
            response = _error(500, "")
        if writes:
            _log_write(request, peer, response.status, message)
        self.metrics.count(
            "fleet_http_requests_total",
            {
                "code": str(response.status),
                "method": request.method if request.method in _METHODS else "other",
                "resource": _NOTE.get().resource,
            },
        )
        return response


async def _while_connected(request: web.Request, answers: AsyncIterator[Answer]) -> AsyncGenerator[Answer, None]:
    """The answers, until there are no more or the client is gone.

    aiohttp tells a handler only when it writes, and a quiet journal would be followed for ever.
    """
    while True:
        task = asyncio.ensure_future(anext(answers))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=CLIENT_CHECK)
                if request.transport is None or request.transport.is_closing():
                    return
            yield task.result()
        except StopAsyncIteration:
            return
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _first_of(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of the events is set, or so long."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def announcements_line(found: Sequence[Announcement], services: set[str]) -> bytes:
    """Announcements of these services (none: all) as one line of JSON."""
    items = [asdict(item) for item in found if not services or item.service in services]
    return json.dumps({"announcements": items}, sort_keys=True, separators=(",", ":")).encode() + b"\n"


async def _next_lines(queue: asyncio.Queue[Event | None]) -> bytes:
    """What to send next: all events that wait, or an empty line; b"" when there will be no more."""
    try:
        async with asyncio.timeout(HEARTBEAT):
            event = await queue.get()
    except TimeoutError:
        return b"\n"
    lines = b""
    while event is not None:
        text = json.dumps(asdict(event), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        lines += text.encode() + b"\n"
        if queue.empty():
            return lines
        event = queue.get_nowait()
    if lines:
        queue.put_nowait(None)  # told again when these lines are sent
    return lines


def _is_local(request: web.Request) -> bool:
    """Whether the request came over the machine's own socket, or its client is gone already."""
    transport = request.transport
    sock = transport.get_extra_info("socket") if transport is not None else None
    return sock is None or sock.family == socket.AF_UNIX


def _check_role(request: web.Request, resource: str) -> None:
    """Refuse what the role of a client on TCP does not allow; the Unix socket's mode has decided already."""
    if _is_local(request):
        return
    transport = request.transport
    role = role_of(transport.get_extra_info("peercert")) if transport is not None else Role.NOBODY
    wanted = needed(request.method, resource)
    if role < wanted:
        raise ApiError(
            403,
            f"{request.method} of {resource} needs the role {wanted.name.lower()}, the client's certificate has "
            f"{role.name.lower()}: its organization (O) must be {ORGANIZATION}{wanted.name.lower()}",
        )


def _resource(name: str, methods: dict[str, Handler], refusal: str, status: int = 405) -> Handler:
    """A handler for one path: by method, with upstream's words for the methods it does not know."""

    async def dispatch(request: web.Request) -> web.StreamResponse:
        _NOTE.get().resource = name
        handler = methods.get(request.method)
        if handler is None:
            raise ApiError(status, refusal)
        _check_role(request, name)
        return await handler(request)

    return dispatch


async def _on_prepare(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = SERVER
    if response.headers.get(hdrs.CONTENT_TYPE) == "application/octet-stream":
        del response.headers[hdrs.CONTENT_TYPE]  # aiohttp's default for an answer without a body


def make_app(
    store: Store,
    machine_id: str,
    *,
    token_limit: int = TOKEN_LIMIT,
    metrics: Metrics | None = None,
    connections: Connections | None = None,
    bulletin: Bulletin | None = None,
) -> web.Application:
    """The API over ``store`` as an aiohttp application.

    ``token_limit`` is the number of items on a page, 1 to 65535. ``metrics`` are shown at
    ``/metrics`` beside those of the API itself; the caller may declare its own there.
    ``connections`` is told of each request; it is to be given to :func:`make_runner` too.
    ``bulletin`` is where services are announced.
    """
    if not 1 <= token_limit <= 0xFFFF:
        raise ValueError(f"token_limit is {token_limit}, not 1 to 65535")
    metrics = metrics or Metrics()
    api = Api(store, machine_id, token_limit, metrics, connections or Connections(), bulletin)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await api.answer(request, handler)

    app = web.Application(middlewares=[answer], client_max_size=BODY_MAX)
    app.on_response_prepare.append(_on_prepare)

    async def end_streams(_app: web.Application) -> None:
        api.hub.close()
        if bulletin is not None:
            bulletin.closing.set()

    app.on_shutdown.append(end_streams)

    get_only = "only GET supported against this resource"
    get = hdrs.METH_GET
    units = _resource("units", {get: api.list_units}, get_only)
    unit = _resource(
        "unit",
        {get: api.get_unit, hdrs.METH_PUT: api.put_unit, hdrs.METH_DELETE: api.delete_unit},
        "only GET, PUT and DELETE supported against this resource",
    )
    machines = _resource(
        "machines",
        {get: api.list_machines, hdrs.METH_PATCH: api.patch_machines},
        "only GET and PATCH supported against this resource",
    )
    routes = {
        "": api.nothing,
        "/units": units,
        "/units/{name}": unit,
        "/machines": machines,
        "/state": _resource("states", {get: api.list_states}, get_only),
        "/state/{name}": _resource("state", {get: api.get_state}, get_only),
        "/units/{name}/status": _resource("status", {get: api.get_status}, get_only),
        "/units/{name}/journal": _resource("journal", {get: api.get_journal}, get_only),
        "/units/{name}/restart": _resource(
            "restart", {hdrs.METH_POST: api.post_restart}, "only POST supported against this resource"
        ),
        "/machines/{machine}/drain": _resource(
            "drain",
            {hdrs.METH_POST: api.set_drain, hdrs.METH_DELETE: api.set_drain},
            "only POST and DELETE supported against this resource",
        ),
        "/rebalance": _resource(
            "rebalance",
            {get: api.rebalance, hdrs.METH_POST: api.rebalance},
            "only GET and POST supported against this resource",
        ),
        "/events": _resource("events", {get: api.get_events}, get_only),
        "/announcements": _resource(
            "announcements",
            {get: api.get_announcements, hdrs.METH_POST: api.post_announcement},
            "only GET and POST supported against this resource",
        ),
        "/discovery": _resource(
            "discovery",
            {get: api.get_discovery},
            "only HTTP GET supported against this resource",
            status=400,
        ),
    }
    for prefix in PREFIXES:
        for path, handler in routes.items():
            app.router.add_route("*", prefix + path, handler)
    app.router.add_route("*", "/", api.nothing)
    app.router.add_route("*", "/metrics", _resource("metrics", {get: api.get_metrics}, get_only))
    return app


def _shorten(record: logging.LogRecord) -> bool:
    """A request that is no HTTP is the client's fault: one line, not a traceback."""
    fault = record.exc_info[1] if record.exc_info else None
    if isinstance(fault, HttpProcessingError):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg = "refused a malformed request: %s"
        record.args = (" ".join(fault.message.split()),)
        record.exc_info = record.exc_text = None
    return True


class _Runner(web.AppRunner):
    """Serves an application to no more clients than ``connections`` allows."""

    def __init__(self, app: web.Application, connections: Connections, **options: Any) -> None:
        super().__init__(app, **options)
        self._connections = connections

    @property
    def server(self) -> web.Server | None:
        """Each listener asks for it once, and counts for itself."""
        server = super().server
        return None if server is None else cast(web.Server, self._connections.listener(server))

    async def cleanup(self) -> None:
        await super().cleanup()
        self._connections.abort()
        await asyncio.sleep(0)


def make_runner(
    app: web.Application, connections: Connections | None = None, shutdown_timeout: float = 2.0
) -> web.AppRunner:
    """What serves the application: limits on request lines, headers and connections, no access log.

    ``connections`` are those that the application was made with. ``shutdown_timeout`` is how many seconds ``cleanup()``
    waits for answers that are being sent.
    """
    options: dict[str, Any] = {"max_line_size": LINE_MAX, "max_field_size": LINE_MAX}
    if "shutdown_timeout" in inspect.signature(web.BaseRunner.__init__).parameters:
        options["shutdown_timeout"] = shutdown_timeout  # aiohttp 3.9; before it, a site had one
    http_log = logging.getLogger("flotilla_fleet.http")
    http_log.addFilter(_shorten)
    return _Runner(app, connections or Connections(), access_log=None, logger=http_log, **options)
