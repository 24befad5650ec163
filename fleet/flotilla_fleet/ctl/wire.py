# Copyright (c) 2026, flotilla.cluster contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""As much of HTTP/1.1 as a client of one server needs.

The standard library's ``http.client`` reads headers with its mail package and loads OpenSSL even for a Unix socket;
that is half of the start-up time of a command which asks one question.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import BinaryIO

_LINE_MAX = 65536
_HEADERS_MAX = 100
_PIECE = 65536


class WireError(Exception):
    """What came back is no HTTP answer, or only a part of one."""


class Response:
    """Status, headers (names in lower case), and the body, which is read once."""

    def __init__(self, file: BinaryIO, head: bool = False) -> None:
        self._file = file
        self.status = 100
        while 100 <= self.status < 200:  # "100 Continue" is no answer yet
            self.status = self._read_status()
            self.headers = self._read_headers()
        self._empty = head or self.status in (204, 304)
        self.keeps = self.headers.get("connection", "").lower() != "close"

    def _line(self) -> bytes:
        return self._whole(self._file.readline(_LINE_MAX + 1))

    @staticmethod
    def _whole(line: bytes) -> bytes:
        if not line.endswith(b"\n"):
            raise WireError("the line is too long" if len(line) > _LINE_MAX else "the answer broke off")
        return line.rstrip(b"\r\n")

    def _read_status(self) -> int:
        line = self._file.readline(_LINE_MAX + 1)
        if not line:
            raise ConnectionResetError("the connection was closed without an answer")
        line = self._whole(line)
        words = line.split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit() or len(words[1]) != 3:
            raise WireError(f"it begins with {line[:40]!r}")
        return int(words[1])

    def _read_headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        while line := self._line():
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or len(headers) >= _HEADERS_MAX:
                raise WireError("its headers make no sense")
            headers[name.strip().lower()] = value.strip()
        return headers

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes."""
        if self._empty:
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        length = self.headers.get("content-length")
        if length is None:
            self.keeps = False
            while piece := self._file.read(_PIECE):
                yield piece
        elif not (length.isascii() and length.isdigit()):
            raise WireError(f"its Content-Length is {length!r}")
        else:
            yield self._exactly(int(length))

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise WireError("the answer broke off")
        return data

    def _chunks(self) -> Iterator[bytes]:
        while True:
            text = self._line().partition(b";")[0].strip()
            try:
                size = int(text, 16)
            except ValueError:
                size = -1
            if size < 0:
                raise WireError(f"the size of a chunk is {text[:20]!r}")
            if size == 0:
                while self._line():
                    pass
                return
            yield self._exactly(size)
            if self._line():
                raise WireError("a chunk is longer than it says")

    def read(self) -> bytes:
        return b"".join(self.pieces())

    def lines(self) -> Iterator[bytes]:
        """Lines of the body as they come, without their ends."""
        rest = b""
        for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n")
            yield from whole


class Connection:
    """One connection that is opened by its first request and kept for the next ones."""

    def __init__(self, connect: Callable[[], socket.socket], host: str) -> None:
        self._connect = connect
        self._host = host
        self._socket: socket.socket | None = None
        self._file: BinaryIO | None = None

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Response:
        """Send a request; the answer's body must be read before the next one."""
        if self._socket is None:
            self._socket = self._connect()
            self._file = self._socket.makefile("rb")
        assert self._file is not None
        words = {"Host": self._host, **headers}
        if body is not None:
            words["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in words.items())
        self._socket.sendall(head.encode("latin-1") + b"\r\n" + (body or b""))
        return Response(self._file, head=method == "HEAD")

    def wait_for_ever(self) -> None:
        """Silence is no error any more."""
        if self._socket is not None:
            self._socket.settimeout(None)

    def interrupt(self) -> None:
        """Wake a thread that reads from this connection: it finds that the answer broke off."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._socket is not None:
            self._socket.close()
        self._file = self._socket = None
