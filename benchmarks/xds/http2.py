"""One HTTP/2 connection with one gRPC stream on it, over a non-blocking socket: a client lighter than any server.

Only what ADS needs (RFC 9113): no header is decoded beyond a look for `grpc-status`, and what is sent has its headers
written out as literals.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from typing import Protocol

DATA, HEADERS, _, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE = range(9)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
FRAME_HEADER = struct.Struct(">HBBBI")  # the length is 24 bits long
FRAME_BYTES = 16_384
UINT32 = struct.Struct(">I")

END_BYTES = 256
"""How much is kept of each end of a message that is known."""

# As Envoy 1.40: a stream's window and the connection's.
STREAM_WINDOW = 16 << 20
CONNECTION_WINDOW = 24 << 20
DEFAULT_WINDOW = 65_535

# Thousands of Envoys on one machine: with the kernel's own choice, which grows, what the servers write in a storm
# exceeds its limit for all of TCP (tcp_mem); it then drops segments, and streams hang for tens of seconds.
RECEIVE_BUFFER_BYTES = 1 << 17

# All connections read into one buffer; what is left of a frame is kept aside until the rest is there.
_BUFFER = bytearray(1 << 18)
_VIEW = memoryview(_BUFFER)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return FRAME_HEADER.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def message_body(message: bytes) -> bytes:
    """Put gRPC's prefix before a message: not compressed, and its length."""
    return b"\x00" + UINT32.pack(len(message)) + message


def data_frames(stream: int, body: bytes) -> bytes:
    return b"".join(
        frame(DATA, 0, stream, body[at : at + FRAME_BYTES]) for at in range(0, max(len(body), 1), FRAME_BYTES)
    )


def _literal(name: bytes, value: bytes) -> bytes:
    """Write a header without indexing, its name spelt out (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request_headers(path: bytes) -> bytes:
    return (
        b"\x83\x86"  # POST, http: of the static table
        + _literal(b":path", path)
        + _literal(b":authority", b"xds")
        + _literal(b"te", b"trailers")
        + _literal(b"content-type", b"application/grpc")
    )


PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(SETTINGS, 0, 0, struct.pack(">HIHI", 0x2, 0, 0x4, STREAM_WINDOW))  # no push; initial window
    + frame(WINDOW_UPDATE, 0, 0, UINT32.pack(CONNECTION_WINDOW - DEFAULT_WINDOW))
)


class Owner(Protocol):
    """Who is told what happens on a connection."""

    def on_headers(self) -> None: ...

    def is_known(self, length: int) -> bool:
        """Whether the two ends of a message of this length tell enough."""

    def on_message(self, message: bytes, length: int) -> None:
        """Take a message; of a known one, only the two ends together."""

    def on_end(self, reason: str) -> None: ...


class Connection:
    """The stream of ID 1, and after a refusal those of 3, 5, …"""

    __slots__ = (
        "_announced",
        "_consumed",
        "_in_body",
        "_kept",
        "_out",
        "_owner",
        "_pending",
        "_poll",
        "_skip_left",
        "_skip_length",
        "_window",
        "_window_stream",
        "fd",
        "is_alive",
        "is_going_away",
        "is_open",
        "socket",
        "stream",
    )

    def __init__(self, poll: select.epoll, owner: Owner, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self.stream = -1
        self.is_alive = True
        self.is_going_away = False
        self.is_open = False
        self._poll = poll
        self._owner = owner
        self._kept = b""  # the beginning of a frame
        self._in_body = bytearray()  # the beginning of a gRPC message; of one that is skipped, its ends so far
        self._skip_length = self._skip_left = 0
        self._out = bytearray(PREFACE)  # bytes that the socket has not taken
        self._pending = bytearray()  # DATA that no window has been open for
        self._window = DEFAULT_WINDOW
        self._announced = DEFAULT_WINDOW  # what a new stream may send
        self._window_stream = DEFAULT_WINDOW
        self._consumed = 0
        code = self.socket.connect_ex(("127.0.0.1", port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, errno.errorcode.get(code, ""))
        poll.register(self.socket, select.EPOLLIN | select.EPOLLOUT)

    # --- Sending ---

    def open_stream(self, headers: bytes, body: bytes) -> None:
        self.stream += 2
        self.is_open = True
        self._in_body.clear()
        self._skip_left = 0
        self._pending.clear()
        self._window_stream = self._announced
        self._write(frame(HEADERS, END_HEADERS, self.stream, headers))
        self.send(data_frames(self.stream, body), body)

    def send(self, framed: bytes, body: bytes) -> None:
        """Send a message; `framed` is `data_frames(self.stream, body)`, for when the windows are open, as is usual."""
        n = len(body)
        if not self._pending and self._window >= n and self._window_stream >= n:
            self._window -= n
            self._window_stream -= n
            self._write(framed)
        else:
            self._pending += body
            self._send_pending()

    def _send_pending(self) -> None:
        while self._pending and (n := min(len(self._pending), self._window, self._window_stream, FRAME_BYTES)) > 0:
            self._window -= n
            self._window_stream -= n
            self._write(frame(DATA, 0, self.stream, bytes(self._pending[:n])))
            del self._pending[:n]

    def _write(self, data: bytes) -> None:
        if self._out:
            self._out += data
            return
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lost(error)
            return
        if sent < len(data):
            self._out += data[sent:]
            self._poll.modify(self.socket, select.EPOLLIN | select.EPOLLOUT)

    def _drain(self) -> None:
        try:
            del self._out[: self.socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not self._out:
            self._poll.modify(self.socket, select.EPOLLIN)

    # --- Receiving ---

    def on_event(self, events: int) -> None:
        if events & select.EPOLLOUT and self._out:
            self._drain()
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and self.is_alive:
            self._read()

    def _read(self) -> None:
        kept = len(self._kept)
        if kept:
            _BUFFER[:kept] = self._kept
        try:
            n = self.socket.recv_into(_VIEW[kept:])
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if n == 0:
            self._lost(None)
            return
        at, end = 0, kept + n
        while end - at >= 9:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(_BUFFER, at)
            stop = at + 9 + (high << 8 | low)
            if stop > end:
                break
            if kind == DATA:
                self._on_data(flags, stream, at + 9, stop)
            else:
                self._on_frame(kind, flags, stream, bytes(_VIEW[at + 9 : stop]))
            if not self.is_alive:
                return
            at = stop
        self._kept = bytes(_VIEW[at:end]) if at < end else b""

    def _on_data(self, flags: int, stream: int, start: int, stop: int) -> None:
        self._consumed += stop - start
        if self._consumed > STREAM_WINDOW // 2:
            more, self._consumed = UINT32.pack(self._consumed), 0
            self._write(frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, self.stream, more))
        if stream != self.stream or not self.is_open:
            return
        if flags & PADDED:
            start, stop = start + 1, stop - _BUFFER[start]
        while start < stop:
            start = self._skip(start, stop) if self._skip_left else self._collect(start, stop)
        if flags & END_STREAM:
            self._ended("end of stream")

    def _collect(self, start: int, stop: int) -> int:
        """Take what belongs to the message at hand, and return where that ends."""
        body = self._in_body
        if not body and stop - start >= 5:
            length: int = UINT32.unpack_from(_BUFFER, start + 1)[0]
            if start + 5 + length <= stop:  # nearly always: a message is a frame
                self._owner.on_message(bytes(_VIEW[start + 5 : start + 5 + length]), length)
                return start + 5 + length
            if stop - start >= 5 + END_BYTES and self._owner.is_known(length):
                body += _VIEW[start + 5 : start + 5 + END_BYTES]
                self._skip_length = length
                self._skip_left = length - END_BYTES
                return start + 5 + END_BYTES
        body += _VIEW[start:stop]
        if len(body) < 5:
            return stop
        length = UINT32.unpack_from(body, 1)[0]
        if len(body) < 5 + length:
            return stop
        over = len(body) - 5 - length
        message = bytes(memoryview(body)[5 : 5 + length])
        self._in_body = bytearray()
        self._owner.on_message(message, length)
        return stop - over

    def _skip(self, start: int, stop: int) -> int:
        """Let go of all but the ends of a message: to copy megabytes for each stream would slow the client down."""
        stop = min(stop, start + self._skip_left)
        self._skip_left -= stop - start
        self._in_body += _VIEW[max(start, stop - END_BYTES) : stop]
        if len(self._in_body) > 3 * END_BYTES:
            del self._in_body[END_BYTES:-END_BYTES]
        if not self._skip_left:
            message = bytes(self._in_body)
            self._in_body.clear()
            self._owner.on_message(message, self._skip_length)
        return stop

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 4 if not flags & ACK:  # SETTINGS
                self._on_settings(payload)
            case 6 if not flags & ACK:  # PING
                self._write(frame(PING, ACK, 0, payload))
            case 8:  # WINDOW_UPDATE
                if stream == 0:
                    self._window += UINT32.unpack(payload)[0]
                elif stream == self.stream:
                    self._window_stream += UINT32.unpack(payload)[0]
                self._send_pending()
            case 1 if stream == self.stream:  # HEADERS
                if flags & END_STREAM:
                    self._ended(_status(payload))
                else:
                    self._owner.on_headers()
            case 3 if stream == self.stream:  # RST_STREAM
                self._ended(f"RST_STREAM {UINT32.unpack(payload)[0]}")
            case 7:  # GOAWAY
                self.is_going_away = True

    def _on_settings(self, payload: bytes) -> None:
        for at in range(0, len(payload), 6):
            name, value = struct.unpack_from(">HI", payload, at)
            if name == 0x4:  # INITIAL_WINDOW_SIZE, of streams that are open as well
                self._window_stream += value - self._announced
                self._announced = value
        self._write(frame(SETTINGS, ACK, 0))
        self._send_pending()

    # --- Ends ---

    def _ended(self, reason: str) -> None:
        if self.is_open:  # trailers may be followed by RST_STREAM
            self.is_open = False
            self._owner.on_end(reason)

    def _lost(self, error: OSError | None) -> None:
        if self.is_alive:
            self.close()
            self._ended("connection " + ("closed" if error is None else errno.errorcode.get(error.errno or 0, "error")))

    def close(self) -> None:
        if self.is_alive:
            self.is_alive = False
            with contextlib.suppress(OSError):
                self._poll.unregister(self.socket)
            self.socket.close()


def _status(trailers: bytes) -> str:
    """Find gRPC's status where it is spelt out; a server may have compressed it."""
    at = trailers.find(b"grpc-status")
    if at < 0:
        return "grpc-status unread"
    length = trailers[at + 11] & 0x7F
    return f"grpc-status {trailers[at + 12 : at + 12 + length].decode('latin-1')}"
