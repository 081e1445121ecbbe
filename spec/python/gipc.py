"""A client for the gipc protocol, version 3, as ../README.md specifies it.

The file has three layers:

- a core without input and output: Handshake, Receiver and Session take and give bytes;
- AsyncClient, for asyncio;
- Client, which blocks, and may be used by several threads.

Ids such as [F-1] are those of the specification. The texts of errors have the form
"what failed: why: what to do".

It needs Python 3.11 or later and the package cryptography, 38 or later. With ML-KEM-1024 in
that package the key agreement is hybrid, and otherwise classical.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import enum
import functools
import hashlib
import hmac
import importlib
import os
import random
import socket
import stat
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = [
    "AsyncClient", "Client", "ClosedError", "Config", "ConfigError", "ConnectTimeoutError", "GipcError", "Handshake",
    "HandshakeError", "HandshakeTimeoutError", "HandshakeTruncatedError", "LostError", "MalformedError", "Message",
    "NotAuthenticError", "NotConnectedError", "PeerClosedError", "Receiver", "RefusedError", "ReplyError",
    "ReservedTypeError", "Session", "Status", "TimedOutError", "TooLargeError", "TruncatedError", "UnconfirmedError",
    "UndeliveredError", "UnprovenError", "UntrustedServerError", "connect", "connect_async",
]

VERSION = 3
FLAG_ENCRYPTED, FLAG_SECRET, FLAG_HYBRID = 1, 2, 4
LEAST_LIMIT, MOST_LIMIT, DEFAULT_LIMIT = 1024, 1 << 30, 3145728
POINT_SIZE, KEM_SIZE, CONFIRMATION_SIZE = 97, 1568, 48
MOST_PLAINTEXT = 65536  # of a record of frames
LARGE = 16384  # a frame with so much data has a record of its own for it
OVERHEAD = 28  # nonce and tag of a record
ID_BIT = 1 << 31  # in the type: the frame has an id
REPLY_BIT = 1 << 63  # in the id: a reply
REKEY_AT = 1 << 32
LAST_SEQUENCE = (1 << 64) - 2
PING, PONG, CLOSE, CLOSE_ACK, CRITICAL = 1, 2, 3, 4, 16
CONTROL_SIZES = {PING: 9, PONG: 9, CLOSE: 2, CLOSE_ACK: 2}

CLOSE_SECONDS = 5.0  # from close to close-ack [G-6]
IDLE_CLOSE_SECONDS = 1.0  # the same if the application has sent nothing [G-6]
END_SECONDS = 1.0  # to end the stream [G-11]
MESSAGE_SECONDS = 30.0  # the most that a client may wait for a message of the handshake [L-5]
STOPPED_SECONDS = 10.0  # after which requests fail while this side does not read
STOPPED_PING_SECONDS = 1.0  # between pings while this side does not read [C-4]
UNREAD_BYTES = 65536  # unread by the application; with as many this side stops reading [C-4]
UNREAD_EACH = 64  # what a message counts beyond its data [C-4]
TCP_HEARTBEAT_SECONDS = 15.0
FIRST_DELAY_SECONDS = 0.001
CHUNK = 65536

# Errors


class GipcError(Exception):
    """An error of this module."""


class ConfigError(GipcError, ValueError):
    """The configuration cannot be used. Nothing has been connected."""


class HandshakeError(GipcError):
    """An attempt to connect failed in the handshake.

    permanent says that the next attempt would fail as well, until the configuration is changed.
    """

    permanent = False


class RefusedError(HandshakeError):
    """A side has refused the other one.

    reason is the number of section 4. by_server says which side has refused.
    """

    def __init__(self, reason: int, by_server: bool) -> None:
        super().__init__(_refusal_text(reason, by_server))
        self.reason = reason
        self.by_server = by_server
        self.permanent = reason in (6, 8) if by_server else reason in (1, 2, 4, 5)


class UnprovenError(HandshakeError):
    """The server has not proved that it has the secret and the name [H-17]."""

    permanent = True


class HandshakeTruncatedError(HandshakeError):
    """The stream ended, or failed, in the handshake."""


class HandshakeTimeoutError(HandshakeError):
    """A message of the server did not arrive in time [L-5]."""


class UntrustedServerError(GipcError):
    """Another user runs the server, and no secret proves it."""


class ConnectTimeoutError(GipcError):
    """No connection within Config.timeout. This client will not be connected again."""


class ClosedError(GipcError):
    """The application has closed this client, or has not connected it."""


class EndError(GipcError):
    """How a connection ended, other than by a close of this side [F-10]. See the subclasses."""


class PeerClosedError(EndError):
    """The server has closed the connection. shutting_down says that the server itself ends."""

    def __init__(self, shutting_down: bool) -> None:
        why = "it is shutting down" if shutting_down else "its application has closed"
        super().__init__(f"the connection ended: the server has closed it, {why}: connect again, or set reconnect")
        self.shutting_down = shutting_down


class TruncatedError(EndError):
    """The stream ended without a close. inside says that it ended inside a frame or record."""

    def __init__(self, inside: bool) -> None:
        where = "inside a frame" if inside else "at the end of a frame"
        super().__init__(f"the connection ended: the stream ended without a close, {where}: connect again, and send "
                         "again what is not confirmed")
        self.inside = inside


class MalformedError(EndError):
    """The server sent malformed input. layer is frame, type, id, record, control or close."""

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"the connection ended: malformed input, {layer}: {why}: check that the server speaks gipc, "
                         f"version {VERSION}")
        self.layer = layer


class NotAuthenticError(EndError):
    """A record is not authentic: it was changed, replayed, reordered or lost on the way."""


class LostError(EndError):
    """This side has found the connection lost: no sign of life, a failed read or write, or no numbers left."""


class NotConnectedError(GipcError):
    """There is no connection. Nothing was sent: sending again is safe."""


class UnconfirmedError(GipcError):
    """The peer may have received it or not: sending again may send it twice."""


class UndeliveredError(UnconfirmedError):
    """Closing cannot report that the peer has received everything. The client is closed all the same."""


class TooLargeError(GipcError, ValueError):
    """The data is larger than the peer accepts. Nothing was sent, and the connection stays usable [F-3]."""


class ReservedTypeError(GipcError, ValueError):
    """The type is not 1 to 2147483647. Nothing was sent."""


class ReplyError(GipcError, ValueError):
    """The message is no request, or has its reply already [Q-3]. Nothing was sent."""


class TimedOutError(GipcError, TimeoutError):
    """Nothing arrived within the time that a read was given. No message is lost."""


_REASONS = {
    1: ("the version of the protocol differs", "use programs of the same version"),
    2: ("the client requires encryption", "switch encryption on at the server, or set require_encryption=False"),
    4: ("the server requires a secret", "set secret to that of the server"),
    5: ("the client requires a secret", "set the secret at the server, or none at the client"),
    6: ("the confirmation does not match", "use the name and the secret of the server"),
    7: ("the server has reached its client limit", "wait for another client to leave"),
    8: ("the server does not authorize this client", "ask who runs the server"),
    9: ("the hello is malformed", f"check that both sides speak gipc, version {VERSION}"),
}


def _refusal_text(reason: int, by_server: bool) -> str:
    """The text of a RefusedError."""
    why, advice = _REASONS.get(reason, ("of an unknown reason", "look into the log of the server"))
    who = "the server refused this client" if by_server else "this client refused the server"
    return f"{who}: {why} (reason {reason}): {advice}"


# Configuration


@dataclass(frozen=True)
class Config:
    """How a client finds its server, and what it requires.

    name: 1 to 255 bytes of UTF-8; a str is encoded. Both sides must have the same.
    network: "unix" or "tcp".
    address: the path of the socket, or host:port. Without one it is derived from the name or the environment.
    secret: 32 bytes or more, not all zeros, the same on both sides; None for none.
    require_encryption: False follows the server, which may have switched encryption off.
    limit: the largest data, in bytes, that this side accepts, 1024 to 2^30.
    timeout: seconds to try to connect and, after each loss, to connect again; 0 is one attempt, None forever.
    handshake_timeout: seconds to wait for each of the server's two messages, at most 30.
    reconnect: connect again after a loss or a close of the server, and report it to the reader.
    retry_cap: the longest pause between two attempts, in seconds.
    heartbeat: seconds without activity before a ping; the peer is lost after twice that. None is 15 on TCP
        and no heartbeat on a unix socket. 0 is none.
    allow_any_user: accept a server of another user on a unix socket without a secret.

    A value that cannot be used is a ConfigError.
    """

    name: str | bytes
    network: str = "unix"
    address: str | None = None
    secret: bytes | None = field(default=None, repr=False)
    require_encryption: bool = True
    limit: int = DEFAULT_LIMIT
    timeout: float | None = 30.0
    handshake_timeout: float = 10.0
    reconnect: bool = False
    retry_cap: float = 1.0
    heartbeat: float | None = None
    allow_any_user: bool = False

    def __post_init__(self) -> None:
        _check_name(self.name_bytes)
        _check_secret(self.secret)
        _require(self.network in ("unix", "tcp"), "network", 'it is neither "unix" nor "tcp"', "use one of them")
        _require(LEAST_LIMIT <= self.limit <= MOST_LIMIT, "limit", f"it is {self.limit}", "use 1024 to 1073741824")
        _require(0 < self.handshake_timeout <= MESSAGE_SECONDS, "handshake_timeout", f"it is {self.handshake_timeout}",
                 "use more than 0 and at most 30 seconds")
        _require(self.timeout is None or self.timeout >= 0, "timeout", "it is negative", "use 0, more, or None")
        _require(self.retry_cap > 0, "retry_cap", "it is not above 0", "use a time above 0")
        _require(self.heartbeat is None or self.heartbeat >= 0, "heartbeat", "it is negative", "use 0 for none")

    @property
    def name_bytes(self) -> bytes:
        """The name as it is used, byte for byte [N-1]."""
        if isinstance(self.name, bytes):
            return self.name
        try:
            return self.name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _config_error("name", "it is not valid UTF-8", "use 1 to 255 bytes of UTF-8") from error


def _config_error(what: str, why: str, advice: str) -> ConfigError:
    return ConfigError(f"the configuration cannot be used, {what}: {why}: {advice}")


def _require(condition: bool, what: str, why: str, advice: str) -> None:
    if not condition:
        raise _config_error(what, why, advice)


def _check_name(name: bytes) -> None:
    """[N-1]"""
    _require(1 <= len(name) <= 255, "name", f"it has {len(name)} bytes", "use 1 to 255 bytes of UTF-8")
    try:
        name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _config_error("name", "it is not valid UTF-8", "use 1 to 255 bytes of UTF-8") from error


def _check_secret(secret: bytes | None) -> None:
    """[N-2]"""
    if secret is None:
        return
    _require(len(secret) >= 32, "secret", f"it has {len(secret)} bytes", "use 32 random bytes or more, or None")
    _require(any(secret), "secret", "all its bytes are zeros", "use 32 random bytes or more, or None")


# Keys


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """HKDF-Extract of RFC 5869 with SHA-384."""
    return hmac.digest(salt, ikm, "sha384")


def hkdf_expand(secret: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand of RFC 5869 with SHA-384, for a length of at most 48."""
    if length > 48:
        raise ValueError(f"HKDF-Expand failed: the length is {length}: use at most 48")
    return hmac.digest(secret, info + b"\x01", "sha384")[:length]


def frame_key(traffic_secret: bytes) -> bytes:
    """The key of the records of a direction."""
    return hkdf_expand(traffic_secret, b"gipc/3 key", 32)


@dataclass(frozen=True)
class KeySchedule:
    """The keys of section 5, all derived from the transcript, the secret and Z."""

    transcript_hash: bytes
    client_confirm_key: bytes
    server_confirm_key: bytes
    client_traffic: bytes
    server_traffic: bytes

    @classmethod
    def derive(cls, name: bytes, secret: bytes | None, transcript: bytes, z: bytes) -> KeySchedule:
        """transcript is ServerHello | ClientHello without its confirmation, as they were on the wire [K-2]."""
        named = b"gipc/3" + struct.pack(">H", len(name)) + name
        th = hashlib.sha384(named + transcript).digest()
        early = hkdf_extract(bytes(48), bytes(48) if secret is None else secret)
        master = hkdf_extract(hkdf_expand(early, b"gipc/3 derived", 48), z)
        labels = (b"client confirm", b"server confirm", b"client traffic", b"server traffic")
        return cls(th, *(hkdf_expand(master, b"gipc/3 " + label + th, 48) for label in labels))

    def client_confirmation(self) -> bytes:
        return hmac.digest(self.client_confirm_key, self.transcript_hash, "sha384")

    def server_confirmation(self) -> bytes:
        return hmac.digest(self.server_confirm_key, self.transcript_hash + self.client_confirmation(), "sha384")


@functools.lru_cache(maxsize=1)
def find_encapsulate() -> Callable[[bytes], tuple[bytes, bytes]] | None:
    """A function from an encapsulation key to (shared secret, ciphertext), or None without ML-KEM-1024."""
    try:
        mlkem: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.mlkem")
        mlkem.MLKEM1024PrivateKey.generate().public_key().encapsulate()
    except (ImportError, AttributeError, UnsupportedAlgorithm):
        return None

    def encapsulate(key: bytes) -> tuple[bytes, bytes]:
        shared, ciphertext = mlkem.MLKEM1024PublicKey.from_public_bytes(key).encapsulate()
        return shared, ciphertext

    return encapsulate


@dataclass(frozen=True)
class Sources:
    """What is random in a connection. Tests give values of their own, and a lower threshold for rekeying.

    encapsulate is None for a client without ML-KEM.
    """

    private_key: Callable[[], ec.EllipticCurvePrivateKey] = lambda: ec.generate_private_key(ec.SECP384R1())
    encapsulate: Callable[[bytes], tuple[bytes, bytes]] | None = field(default_factory=find_encapsulate)
    nonce: Callable[[], bytes] = lambda: os.urandom(12)
    rekey_at: int = REKEY_AT


_P384_PRIME = (1 << 384) - (1 << 128) - (1 << 96) + (1 << 32) - 1


def parse_point(point: bytes) -> ec.EllipticCurvePublicKey | None:
    """The public key of an uncompressed point of P-384, or None if it is malformed [H-3]."""
    x, y = int.from_bytes(point[1:49], "big"), int.from_bytes(point[49:], "big")
    if len(point) != POINT_SIZE or point[:1] != b"\4" or x >= _P384_PRIME or y >= _P384_PRIME:
        return None
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError:
        return None


def kem_key_is_valid(key: bytes) -> bool:
    """Whether every coefficient of an encapsulation key is below 3,329 [H-23]."""
    triples = zip(key[0:1536:3], key[1:1536:3], key[2:1536:3], strict=True)
    return all(a | (b & 15) << 8 < 3329 and b >> 4 | c << 4 < 3329 for a, b, c in triples)


# Handshake


class Handshake:
    """The client's side of the handshake, without input and output.

    Call receive with what the server sends, and write what output() gives. When done is True,
    session() is the connection. A failure is a HandshakeError; write output() also then, because
    it may be the reason of a refusal, and end the stream.
    """

    def __init__(self, config: Config, sources: Sources | None = None) -> None:
        self.done = False
        self.hello_written = False
        self.encrypted = False
        self.hybrid = False
        self.peer_limit = 0
        self.schedule: KeySchedule | None = None
        self._config = config
        self._sources = Sources() if sources is None else sources
        self._buffer = bytearray()
        self._output = bytearray()
        self._checked = 0
        self._server_point: ec.EllipticCurvePublicKey | None = None
        self._checks = [(1, self._check_version), (2, self._check_flags), (6, self._check_limit),
                        (6 + POINT_SIZE, self._check_point), (6 + POINT_SIZE + KEM_SIZE, self._check_kem_key)]

    def receive(self, data: bytes) -> None:
        """Takes bytes of the server. Raises HandshakeError."""
        self._buffer += data
        if not self.hello_written and self._hello_is_complete():
            self._write_hello()
        if self.hello_written and not self.done:
            self._check_finish()

    def receive_end(self) -> None:
        """The server's stream has ended: raises HandshakeTruncatedError."""
        raise HandshakeTruncatedError("connecting failed: the stream ended in the handshake: check that a gipc server "
                                      "listens there, and look into its log")

    def output(self) -> bytes:
        """What is to be written now. Empties it."""
        output = bytes(self._output)
        self._output.clear()
        return output

    def session(self) -> Session:
        """The connection after the handshake. It has the bytes that followed ServerFinish [H-6]."""
        secrets = None
        if self.schedule is not None:
            secrets = (self.schedule.server_traffic, self.schedule.client_traffic)
        session = Session(secrets, self._config.limit, self.peer_limit, self._sources)
        session.receive(bytes(self._buffer))
        return session

    def _refuse(self, reason: int) -> RefusedError:
        """Refuses the server: one byte, and nothing else [H-13]."""
        self._output[:] = bytes([reason])
        return RefusedError(reason, by_server=False)

    def _hello_is_complete(self) -> bool:
        """Checks each field of ServerHello as soon as it is complete, in order [H-5], [H-13]."""
        while self._checked < len(self._checks):
            end, check = self._checks[self._checked]
            if self._buffer[:1] == b"\0":
                end, check = 2, self._read_refusal
            if len(self._buffer) < end:
                return False
            check()
            self._checked += 1
        return True

    def _read_refusal(self) -> None:
        """[H-16], [H-20]"""
        raise RefusedError(self._buffer[1], by_server=True)

    def _check_version(self) -> None:
        if self._buffer[0] != VERSION:
            raise self._refuse(1)

    def _check_flags(self) -> None:
        """[H-10], [H-11], [H-12]"""
        flags, secret = self._buffer[1], self._config.secret
        requires_encryption = self._config.require_encryption or secret is not None
        if requires_encryption and not flags & FLAG_ENCRYPTED:
            raise self._refuse(2)
        if flags & FLAG_SECRET and secret is None:
            raise self._refuse(4)
        if secret is not None and not flags & FLAG_SECRET:
            raise self._refuse(5)
        if flags > 7 or flags & (FLAG_ENCRYPTED | FLAG_HYBRID) == FLAG_HYBRID:
            raise self._refuse(9)
        self.encrypted = bool(flags & FLAG_ENCRYPTED)
        self.hybrid = bool(flags & FLAG_HYBRID) and self._sources.encapsulate is not None
        self._checks = self._checks[:5 if flags & FLAG_HYBRID else 4 if self.encrypted else 3]

    def _check_limit(self) -> None:
        """[H-2]"""
        self.peer_limit = int.from_bytes(self._buffer[2:6], "big")
        if not LEAST_LIMIT <= self.peer_limit <= MOST_LIMIT:
            raise self._refuse(9)

    def _check_point(self) -> None:
        self._server_point = parse_point(bytes(self._buffer[6:6 + POINT_SIZE]))
        if self._server_point is None:
            raise self._refuse(9)

    def _check_kem_key(self) -> None:
        """A client without ML-KEM does not check the key."""
        if self.hybrid and not kem_key_is_valid(self._buffer[6 + POINT_SIZE:6 + POINT_SIZE + KEM_SIZE]):
            raise self._refuse(9)

    def _write_hello(self) -> None:
        """Takes ServerHello out of the buffer, and writes ClientHello."""
        size = self._checks[-1][0]
        server_hello = bytes(self._buffer[:size])
        del self._buffer[:size]
        flags = server_hello[1] if self.hybrid else server_hello[1] & ~FLAG_HYBRID  # [H-21]
        hello = struct.pack(">BBL", 0, flags, self._config.limit)
        if self._server_point is not None:
            hello = self._agree(self._server_point, server_hello, hello)
        self._output += hello
        self.hello_written = True

    def _agree(self, point: ec.EllipticCurvePublicKey, server_hello: bytes, hello: bytes) -> bytes:
        """Derives the keys. Returns the complete ClientHello."""
        private = self._sources.private_key()
        hello += private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        z = private.exchange(ec.ECDH(), point).rjust(48, b"\0")  # [K-1]
        if self.hybrid:
            shared, ciphertext = self._encapsulate(server_hello[-KEM_SIZE:])
            hello, z = hello + ciphertext, z + shared
        config = self._config
        self.schedule = KeySchedule.derive(config.name_bytes, config.secret, server_hello + hello, z)
        return hello + self.schedule.client_confirmation()

    def _encapsulate(self, key: bytes) -> tuple[bytes, bytes]:
        assert self._sources.encapsulate is not None
        try:
            return self._sources.encapsulate(key)
        except ValueError:
            raise self._refuse(9) from None

    def _check_finish(self) -> None:
        """Checks ServerFinish, and takes it out of the buffer [H-17]."""
        if self._buffer and self._buffer[0] != 0:
            raise RefusedError(self._buffer[0], by_server=True)
        size = 1 if self.schedule is None else 1 + CONFIRMATION_SIZE
        if len(self._buffer) < size:
            return
        if self.schedule is not None and not hmac.compare_digest(self._buffer[1:size],
                                                                 self.schedule.server_confirmation()):
            raise UnprovenError("connecting failed: the server has not proved that it has the secret and the name: "
                                "check that both are those of the server, and who listens at the address")
        del self._buffer[:size]
        self.done = True


# Frames and records


class Head(NamedTuple):
    """The head of a frame: its fields before the data."""

    length: int
    type: int  # as it stands in the frame
    id: int | None

    @property
    def size(self) -> int:
        return 8 if self.id is None else 16

    @property
    def data_size(self) -> int:
        return self.length + 4 - self.size


class Frame(NamedTuple):
    """A complete frame. type is as it stands in the frame."""

    type: int
    id: int | None
    data: bytes


def read_head(buffer: bytes | bytearray, limit: int, start: int = 0) -> Head | None:
    """The head of the frame at start, or None if it is not complete.

    Checks each field as soon as it is complete [F-1], [F-2], [F-4], [F-6]: raises MalformedError.
    """
    available = len(buffer) - start
    if available < 4:
        return None
    (length,) = struct.unpack_from(">L", buffer, start)
    if length < 4 or length > 12 + limit:
        raise MalformedError("frame", f"a frame has the length {length}")
    if available < 8:
        return None
    (kind,) = struct.unpack_from(">L", buffer, start + 4)
    if kind == ID_BIT:
        raise MalformedError("type", "a frame with an id has the type 0")
    least = 12 if kind & ID_BIT else 4
    if not least <= length <= least + limit:
        raise MalformedError("frame", f"a frame of type {kind} has the length {length}")
    if not kind & ID_BIT:
        return Head(length, kind, None)
    if available < 16:
        return None
    return Head(length, kind, struct.unpack_from(">Q", buffer, start + 8)[0])


def make_head(kind: int, number: int | None, size: int) -> bytes:
    """The head of a frame with size bytes of data."""
    if number is None:
        return struct.pack(">LL", 4 + size, kind)
    return struct.pack(">LLQ", 12 + size, kind | ID_BIT, number)


class Direction:
    """The key, sum and sequence number of one direction of an encrypted connection."""

    def __init__(self, traffic_secret: bytes, rekey_at: int = REKEY_AT, sequence: int = 0) -> None:
        self.sequence = sequence
        self._traffic_secret = traffic_secret
        self._rekey_at = rekey_at
        self._sum = 0
        self._cipher = AESGCM(frame_key(traffic_secret))

    def seal(self, plaintext: bytes, nonce: bytes) -> bytes:
        """The record of plaintext, with its length. Raises LostError when the numbers are used up [R-4]."""
        if self.sequence > LAST_SEQUENCE:
            raise LostError("the connection ended: no sequence number is left: connect again")
        sealed = self._cipher.encrypt(nonce, plaintext, struct.pack(">Q", self.sequence))
        length = len(nonce) + len(sealed)
        self._count(length)
        return struct.pack(">L", length) + nonce + sealed

    def open(self, body: bytes) -> bytes:
        """The plaintext of a record, given without its length. Raises NotAuthenticError."""
        if self.sequence > LAST_SEQUENCE or len(body) < OVERHEAD:
            raise _not_authentic()
        try:
            plaintext = self._cipher.decrypt(body[:12], body[12:], struct.pack(">Q", self.sequence))
        except InvalidTag:
            raise _not_authentic() from None
        self._count(len(body))
        return plaintext

    def _count(self, length: int) -> None:
        """Counts a record, and changes the key behind it when it is time [Y-1], [Y-2], [Y-3]."""
        self.sequence += 1
        self._sum += length
        if self._sum >= self._rekey_at:
            self._traffic_secret = hkdf_expand(self._traffic_secret, b"gipc/3 update", 48)
            self._cipher = AESGCM(frame_key(self._traffic_secret))
            self._sum = 0


def _not_authentic() -> NotAuthenticError:
    return NotAuthenticError("the connection ended: a record is not authentic, because it was changed, replayed, "
                             "reordered or lost: connect again, and look for what changes bytes on the way")


class Receiver:
    """Reads the frames of one direction, and checks all that does not concern the application.

    A unit is what is checked together: a frame in plaintext, a record if direction is given.
    Set close_sent when this side has accepted its own close for sending [G-7].
    """

    def __init__(self, direction: Direction | None, limit: int) -> None:
        self.close_sent = False
        self.close_read = False
        self.ack: int | None = None
        self._direction = direction
        self._limit = limit
        self._buffer = bytearray()
        self._large: Head | None = None  # its data is due
        self._last_request = 0

    def feed(self, data: bytes) -> None:
        """Takes bytes of the stream. Memory grows with them, and never with a length field [F-5]."""
        self._buffer += data

    def unit(self) -> Iterator[Frame] | None:
        """The frames of the next unit, or None if it is not complete.

        Raises MalformedError and NotAuthenticError, here or while the frames are read: those before
        the fault come first [F-9], [R-7].
        """
        return self._plain_unit() if self._direction is None else self._sealed_unit(self._direction)

    def at_boundary(self) -> bool:
        """Whether a stream that ends here ends at the end of a frame [F-10]."""
        return not self._buffer and self._large is None

    def _cut(self, start: int, end: int) -> bytes:
        """Takes the first end bytes out of the buffer. Returns them without the first start."""
        with memoryview(self._buffer) as view:
            cut = bytes(view[start:end])
        del self._buffer[:end]
        return cut

    def _plain_unit(self) -> Iterator[Frame] | None:
        head = read_head(self._buffer, self._limit)
        if head is None or len(self._buffer) < 4 + head.length:
            return None
        data = self._cut(head.size, 4 + head.length)
        self._check_id(head)
        return iter((self._checked(Frame(head.type, head.id, data)),))

    def _sealed_unit(self, direction: Direction) -> Iterator[Frame] | None:
        if len(self._buffer) < 4:
            return None
        (length,) = struct.unpack_from(">L", self._buffer)
        self._check_record_length(length)
        if len(self._buffer) < 4 + length:
            return None
        plaintext = direction.open(self._cut(4, 4 + length))
        if self._large is None:
            return self._frames(plaintext)
        head, self._large = self._large, None
        return iter((self._checked(Frame(head.type, head.id, plaintext)),))

    def _check_record_length(self, length: int) -> None:
        """[R-6]"""
        if self._large is None:
            good = OVERHEAD + 8 <= length <= OVERHEAD + MOST_PLAINTEXT
        else:
            good = length == OVERHEAD + self._large.data_size
        if not good:
            raise MalformedError("record", f"a record has the length {length}")

    def _frames(self, plaintext: bytes) -> Iterator[Frame]:
        """The frames of a record of frames [R-7]."""
        start = 0
        while start < len(plaintext):
            head = read_head(plaintext, self._limit, start)
            if head is None:
                raise MalformedError("record", "a record ends inside a frame")
            data_start, end = start + head.size, start + 4 + head.length
            large = head.data_size >= LARGE
            if large and data_start != len(plaintext):
                raise MalformedError("record", "something follows the head of a large frame")
            if not large and end > len(plaintext):
                raise MalformedError("record", "a record ends inside a frame")
            self._check_id(head)
            if large:
                self._large = head
                return
            yield self._checked(Frame(head.type, head.id, plaintext[data_start:end]))
            start = end

    def _check_id(self, head: Head) -> None:
        """[Q-1]"""
        if head.id is None:
            return
        number = head.id & ~REPLY_BIT
        if number == 0:
            raise MalformedError("id", "a request or a reply has the number 0")
        if head.id & REPLY_BIT:
            return
        if number != self._last_request + 1:
            raise MalformedError("id", f"a request has the number {number} after {self._last_request}")
        self._last_request = number

    def _checked(self, frame: Frame) -> Frame:
        """The frame, which is checked if it is a control frame [C-1], [C-2], [C-3], [G-7]."""
        if frame.type != 0:
            return frame
        if not frame.data:
            raise MalformedError("control", "a control frame has no data")
        kind, size = frame.data[0], len(frame.data)
        if kind >= CRITICAL or size != CONTROL_SIZES.get(kind, size):
            raise MalformedError("control", f"a control frame of kind {kind} has {size} bytes")
        if kind == CLOSE:
            self.close_read = True
        if kind == CLOSE_ACK:
            if not self.close_sent or not self.close_read or self.ack is not None:
                raise MalformedError("close", "a close-ack acknowledges nothing")
            self.ack = 0 if frame.data[1] == 0 else 1  # [G-8]
        return frame


# Session


@dataclass
class Message:
    """What a reader gets: a message or a request of the server, or a change of the status.

    type: 1 to 2147483647; -1 for a status.
    number: the number of a request, 0 for a message.
    status and error: the new status, and the cause of a loss, which is None after a close.
    connection: which connection of the client it came from; the first one is 1.
    """

    type: int
    data: bytes = b""
    number: int = 0
    status: Status | None = None
    error: Exception | None = None
    connection: int = 0
    replied: bool = False

    @property
    def is_request(self) -> bool:
        """Whether the server waits for a reply."""
        return self.number > 0


class Status(enum.Enum):
    """The status of a client, section 12."""

    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    RECONNECTING = "Reconnecting"
    TIMEOUT = "Timeout"
    CLOSING = "Closing"
    CLOSED = "Closed"


class Outgoing:
    """A message, request or reply that was accepted for sending.

    sealed says that it was handed out by Session.next_output. number is the number of a request,
    which it gets then [Q-1].
    """

    __slots__ = ("type", "data", "id", "is_request", "sealed", "number")

    def __init__(self, kind: int, data: bytes, number: int | None = None, is_request: bool = False) -> None:
        self.type = kind
        self.data = data
        self.id = number
        self.is_request = is_request
        self.sealed = False
        self.number = 0


@dataclass(frozen=True)
class Received:
    """An event: a message or a request. discarded says that the application must not get it [G-5]."""

    message: Message
    discarded: bool


@dataclass(frozen=True)
class Replied:
    """An event: the reply to a request."""

    request: Outgoing
    message: Message


@dataclass(frozen=True)
class Failed:
    """An event: an open request failed, with NotConnectedError or UnconfirmedError [Q-6]."""

    request: Outgoing
    error: GipcError


@dataclass(frozen=True)
class Ended:
    """An event: the connection has ended for the application. There is one at most."""

    error: EndError


Event = Received | Replied | Failed | Ended


class Session:
    """A connection after the handshake, without input and output.

    Call receive and receive_end with the input, and write what next_output gives, one after
    another, each completely. After each call take the events. Stop reading when input_over is
    True, and shut down the sending half when output_over is True.

    secrets are the traffic secrets (of the peer, of this side), or None in plaintext.
    """

    def __init__(self, secrets: tuple[bytes, bytes] | None, limit: int, peer_limit: int,
                 sources: Sources | None = None) -> None:
        self._sources = Sources() if sources is None else sources
        rekey_at = self._sources.rekey_at
        incoming = None if secrets is None else Direction(secrets[0], rekey_at)
        self._receiver = Receiver(incoming, limit)
        self._direction = None if secrets is None else Direction(secrets[1], rekey_at)
        self._peer_limit = peer_limit
        self._events: list[Event] = []
        self._queue: deque[Outgoing] = deque()
        self._open: dict[int, Outgoing] = {}
        self._requests = 0
        self._large_data: bytes | None = None
        self._ping = self._pong = b""
        self.has_sent = False  # the application has sent something
        self.close_sent = False  # this side's close was accepted for sending
        self.initiator = False  # ... because of the application, before the peer's close
        self.peer_closed = False
        self.input_over = False
        self.fault: EndError | None = None
        self.ignored_replies = 0
        self._ack_sent = False
        self._reply_due = False
        self._discarded = False
        self._given_up = False

    # What the application does

    def send(self, kind: int, data: bytes) -> Outgoing:
        """Accepts a message for sending. Raises TooLargeError, ReservedTypeError, NotConnectedError, ClosedError."""
        return self._accept(Outgoing(kind, data))

    def request(self, kind: int, data: bytes) -> Outgoing:
        """Accepts a request. The same errors."""
        return self._accept(Outgoing(kind, data, is_request=True))

    def reply(self, number: int, kind: int, data: bytes) -> Outgoing:
        """Accepts the reply to the request with this number. The same errors. The caller replies once [Q-3]."""
        return self._accept(Outgoing(kind, data, number | REPLY_BIT))

    def give_up(self, request: Outgoing) -> None:
        """Waits no longer for the reply to a request. A request that was not sealed is taken back [Q-1], [Q-7]."""
        if request.sealed:
            self._open.pop(request.number, None)
        elif request in self._queue:
            self._queue.remove(request)

    def ping(self) -> None:
        """Sends a ping. At most one is pending."""
        if not self.close_sent and self.fault is None:
            self._ping = bytes([PING]) + os.urandom(8)

    def close(self, shutting_down: bool = False) -> None:
        """The application closes: a close follows what was accepted. More than one call is one."""
        if self.close_sent or self.over():
            return
        self.initiator = True
        self._send_close(int(shutting_down))

    def lost(self, error: EndError) -> None:
        """This side has found the connection lost, or a write failed [G-10]."""
        if self.fault is None and not self.input_over:
            self._end(error)

    def stop_writing(self) -> None:
        """Nothing more will be written, because a write failed. What was not sealed was not sent."""
        self._given_up = True
        self._drop_output()

    def over(self) -> bool:
        """Whether nothing can be sent any more: it was closed by the peer, or lost."""
        return self.peer_closed or self.input_over or self.fault is not None or self._given_up

    def delivered(self) -> bool:
        """Whether the peer has all that this side has sent, as far as it is known now [G-6], [G-9]."""
        return not self.has_sent or self._receiver.ack == 0

    def events(self) -> list[Event]:
        """What has happened. Empties it."""
        events, self._events = self._events, []
        return events

    def _accept(self, outgoing: Outgoing) -> Outgoing:
        if not 1 <= outgoing.type < ID_BIT:  # [F-6]
            raise ReservedTypeError(f"sending failed: the type {outgoing.type} is reserved: use 1 to 2147483647")
        if len(outgoing.data) > self._peer_limit:  # [F-3]
            raise TooLargeError(f"sending failed: the data has {len(outgoing.data)} bytes, and the server accepts "
                                f"{self._peer_limit}: send less at once, or raise the limit of the server")
        if self.close_sent and self.initiator:
            raise ClosedError("sending failed: this side has closed: connect again")
        if self.over():
            raise _not_sent()
        self.has_sent = True
        self._queue.append(outgoing)
        return outgoing

    # Input

    def receive(self, data: bytes) -> None:
        """Takes bytes of the peer. A fault ends the session, as an event."""
        self._receiver.feed(data)
        try:
            while not self.input_over:
                unit = self._receiver.unit()
                if unit is None:
                    return
                for frame in unit:
                    self._take(frame)
                self._finish_unit()
        except EndError as error:
            self._end(error)

    def receive_end(self) -> None:
        """The peer's stream has ended."""
        if self.input_over:
            return
        if self.peer_closed:
            self.input_over = True
        else:
            self._end(TruncatedError(not self._receiver.at_boundary()))

    def _take(self, frame: Frame) -> None:
        if frame.type == 0:
            self._take_control(frame.data)
        elif self.peer_closed:
            pass  # behind the close [G-4]
        elif frame.id is not None and frame.id & REPLY_BIT:
            self._take_reply(frame, frame.id & ~REPLY_BIT)
        else:
            self._discarded = self._discarded or self.close_sent
            message = Message(frame.type & ~ID_BIT, frame.data, frame.id or 0)
            self._events.append(Received(message, self.close_sent))

    def _take_reply(self, frame: Frame, number: int) -> None:
        request = self._open.pop(number, None)
        if request is None:
            self.ignored_replies += 1
        else:
            self._events.append(Replied(request, Message(frame.type & ~ID_BIT, frame.data)))

    def _take_control(self, data: bytes) -> None:
        if data[0] == PING and not self.close_sent and not self.peer_closed:
            self._pong = bytes([PONG]) + data[1:]  # a newer one replaces it [C-5]
        elif data[0] == CLOSE and not self.peer_closed:
            self.peer_closed = self._reply_due = True
            self._fail_requests()
            self._events.append(Ended(PeerClosedError(data[1] == 1)))

    def _finish_unit(self) -> None:
        """Replies to a close, when the rest of its record is checked [G-4]. Stops at the close-ack."""
        if self._reply_due:
            self._reply_due = False
            if not self.close_sent:
                self._send_close(0)
            self._queue.append(Outgoing(0, bytes([CLOSE_ACK, int(self._discarded)])))
            self._ack_sent = True
        if self._receiver.ack is not None:
            self.input_over = True

    def _send_close(self, code: int) -> None:
        self.close_sent = self._receiver.close_sent = True
        self._ping = self._pong = b""
        self._queue.append(Outgoing(0, bytes([CLOSE, code])))

    def _end(self, error: EndError) -> None:
        """A fault or a loss: nothing more is written [G-4], [G-10]."""
        self.fault = error
        self.input_over = True
        self._drop_output()
        self._fail_requests()
        if not self.peer_closed:
            self._events.append(Ended(error))

    def _drop_output(self) -> None:
        taken_back = [outgoing for outgoing in self._queue if outgoing.is_request]
        self._queue.clear()
        self._large_data = None
        self._ping = self._pong = b""
        self._events += [Failed(request, _not_sent()) for request in taken_back]

    def _fail_requests(self) -> None:
        """Fails all requests, and takes those back that were not sealed [Q-6]."""
        waiting = [outgoing for outgoing in self._queue if outgoing.is_request]
        self._queue = deque(outgoing for outgoing in self._queue if not outgoing.is_request)
        self._events += [Failed(request, _unknown_outcome()) for request in self._open.values()]
        self._events += [Failed(request, _not_sent()) for request in waiting]
        self._open.clear()

    # Output

    @property
    def output_over(self) -> bool:
        """Whether everything is written, and the sending half is to be shut down."""
        if self._queue or self._large_data is not None:
            return False
        acknowledged = self._ack_sent and (not self.initiator or self.input_over)
        return acknowledged or self.fault is not None or self._given_up

    def next_output(self) -> bytes:
        """The next bytes to write: whole frames in plaintext, or one record. Empty if there is nothing.

        All of it is to be written, or the connection to be ended [F-11].
        """
        if self._direction is None:
            return self._pack()
        try:
            data, self._large_data = self._large_data, None
            if data is None:
                data = self._pack()
            return self._direction.seal(data, self._sources.nonce()) if data else b""
        except LostError as error:
            self._end(error)
            return b""

    def _pack(self) -> bytes:
        """As many frames as fit: pong and ping first [C-4], then in the order in which they were accepted [R-8]."""
        parts: list[bytes] = []
        size = 0
        for control in (self._pong, self._ping):
            if control:
                parts.append(make_head(0, None, len(control)) + control)
                size += len(parts[-1])
        self._ping = self._pong = b""
        while self._queue and self._large_data is None:
            outgoing = self._queue[0]
            head_size = 16 if outgoing.is_request or outgoing.id is not None else 8
            large = len(outgoing.data) >= LARGE
            added = head_size if large and self._direction else head_size + len(outgoing.data)
            if parts and size + added > MOST_PLAINTEXT:
                break
            self._queue.popleft()
            parts += self._seal_frame(outgoing, large)
            size += added
        return b"".join(parts)

    def _seal_frame(self, outgoing: Outgoing, large: bool) -> list[bytes]:
        """The head and the data. In an encrypted connection the data of a large frame is for the next record [R-9]."""
        outgoing.sealed = True
        if outgoing.is_request:
            self._requests += 1
            outgoing.number = outgoing.id = self._requests
            self._open[self._requests] = outgoing
        head = make_head(outgoing.type, outgoing.id, len(outgoing.data))
        if large and self._direction is not None:
            self._large_data = outgoing.data
            return [head]
        return [head, outgoing.data]

    def pending_large(self) -> bool:
        """Whether the head of a large frame was handed out, and its data was not."""
        return self._large_data is not None


def _not_sent() -> NotConnectedError:
    return NotConnectedError("sending failed: there is no connection, and nothing was sent: send again when connected")


def _unknown_outcome() -> UnconfirmedError:
    return UnconfirmedError("the request failed: the connection ended before the reply, and the server may have handled "
                            "the request: send it again only if it may be handled twice")


# Finding the server


def socket_paths(name: bytes) -> list[str]:
    """Where a client looks for the socket of a server, in order (section 2). Raises ConfigError."""
    text = name.decode("utf-8")
    if any(c in text for c in "/\\\0") or text in (".", ".."):
        raise _config_error("name", "it cannot be the name of a file", "use no /, \\ or NUL, or set address")
    directory = os.environ.get("GIPC_SOCKET_DIR")
    if directory:
        return [os.path.join(directory, text + ".sock")]
    own = f"/tmp/gipc-{os.geteuid()}"
    directories = [own, "/tmp"] if _is_private(own) else ["/tmp"]
    return [os.path.join(d, text + ".sock") for d in directories]


def _is_private(path: str) -> bool:
    """Whether path is a directory, and no link, of this user with mode 0700."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o700


def tcp_address(address: str | None) -> tuple[str, int]:
    """The host and the port of host:port, or of the environment. Raises ConfigError."""
    if address is None:
        host = os.environ.get("GIPC_NETWORK_HOST") or "127.0.0.1"
        port = os.environ.get("GIPC_NETWORK_PORT") or "8100"
    else:
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
    _require(bool(host) and port.isascii() and port.isdigit() and int(port) < 65536, "address",
             f"{host}:{port} is no host and port", "use the form 127.0.0.1:8100")
    return host, int(port)


def _open_unix(config: Config) -> socket.socket:
    """A socket that is connected to the server. Raises OSError, ConfigError, UntrustedServerError."""
    paths = [config.address] if config.address is not None else socket_paths(config.name_bytes)
    for i, path in enumerate(paths):
        try:
            return _connect_unix(config, path)
        except (FileNotFoundError, ConnectionRefusedError):
            if i == len(paths) - 1:
                raise
    raise AssertionError("socket_paths gives one path or more")


def _connect_unix(config: Config, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # a full backlog is an error at once, and the next attempt comes soon
        owner = os.stat(path).st_uid
        sock.connect(path)
        if config.secret is None and not config.allow_any_user:
            _check_server_user(sock, path, owner)
        return sock
    except OSError as error:
        sock.close()
        if error.errno is None:  # the path is too long for the system
            raise _config_error("address", f"{path}: {error}", "use a shorter name or path") from error
        raise
    except BaseException:
        sock.close()
        raise


def _check_server_user(sock: socket.socket, path: str, owner: int) -> None:
    """Section 14, local sockets: the server runs as this user or as root."""
    if sys.platform == "linux":
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        users = {struct.unpack("3i", credentials)[1]}
    else:
        users = {owner, os.stat(path).st_uid}
    if users - {0, os.geteuid()}:
        raise UntrustedServerError(f"connecting failed: {path} belongs to a server of user {max(users)}, and no secret "
                                   "proves it: set a secret on both sides, or allow_any_user")


async def _open_tcp(config: Config) -> socket.socket:
    """A socket that is connected to the server, by the first address that answers. Raises OSError, ConfigError."""
    loop = asyncio.get_running_loop()
    host, port = tcp_address(config.address)
    failure: OSError | None = None
    async with asyncio.timeout(config.handshake_timeout):
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(config.handshake_timeout):
                await loop.sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:  # TimeoutError is one
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{host} has no address")


# Connecting


async def _shake_hands(sock: socket.socket, config: Config, shake: Handshake) -> None:
    """Runs the handshake. Raises HandshakeError; what output() then gives is still to be written."""
    loop = asyncio.get_running_loop()
    write_failed = False
    for message in ("ServerHello", "ServerFinish"):
        try:
            async with asyncio.timeout(config.handshake_timeout):
                while not (shake.hello_written if message == "ServerHello" else shake.done):
                    data = await _receive_or_end(loop, sock)
                    shake.receive(data) if data else shake.receive_end()
        except TimeoutError:
            raise HandshakeTimeoutError(f"connecting failed: {message} did not arrive within {config.handshake_timeout} "
                                        "s: check that a gipc server listens there") from None
        output = shake.output()
        try:
            if output:
                await loop.sock_sendall(sock, output)
        except OSError:
            write_failed = True  # the server may have sent a reason [H-8]
    if write_failed:
        shake.receive_end()


async def _receive_or_end(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """What arrives in a handshake. A failure is an end of the stream."""
    try:
        return await loop.sock_recv(sock, CHUNK)
    except OSError:
        return b""


async def _end_stream(sock: socket.socket, output: bytes, deadline: float) -> None:
    """Ends a stream (section 10), until deadline at most, and closes the socket [G-11]."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(deadline):
            if output:
                await loop.sock_sendall(sock, output)
            sock.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(sock, CHUNK):
                await asyncio.sleep(0)
    except OSError:  # TimeoutError is one
        pass
    finally:
        sock.close()


# A connection


class _Link:
    """A connection of an AsyncClient: the socket, the session, and the tasks that move bytes between them."""

    def __init__(self, client: AsyncClient, sock: socket.socket, session: Session, number: int) -> None:
        self.session = session
        self.number = number
        self.started = asyncio.get_running_loop().time()
        self._client = client
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._activity = self.started
        self._stopped = False  # this side does not read [C-4]
        self._wake = asyncio.Event()  # the writer has something to do
        self._ending = asyncio.Event()  # a close was sent or read, or the connection is lost
        self._writes: deque[tuple[Outgoing, asyncio.Future[None]]] = deque()
        self._calls: dict[Outgoing, tuple[asyncio.Future[Message], float]] = {}
        self._write_error: LostError | None = None
        self.task = asyncio.create_task(self._run())

    async def written(self, outgoing: Outgoing) -> None:
        """Waits until the system has all of it. Raises NotConnectedError, UnconfirmedError."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._writes.append((outgoing, future))
        self._wake.set()
        await future

    async def reply_to(self, request: Outgoing) -> Message:
        """Waits for the reply. Gives the request up if it is cancelled. Raises NotConnectedError, UnconfirmedError."""
        future: asyncio.Future[Message] = self._loop.create_future()
        self._calls[request] = (future, self._loop.time())
        self._wake.set()
        try:
            return await future
        finally:
            self._calls.pop(request, None)
            self.session.give_up(request)

    def close(self) -> None:
        """The application closes. self.task ends when the socket is closed."""
        self.session.close()
        self._wake.set()
        self._ending.set()

    async def _run(self) -> None:
        """Moves bytes until the connection has ended, and then ends the stream."""
        tasks = [asyncio.create_task(self._read_loop()), asyncio.create_task(self._write_loop()),
                 asyncio.create_task(self._beat_loop())]
        deadline = 0.0
        try:
            await self._ending.wait()
            deadline = await self._finish(tasks[0], tasks[1])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.session.lost(LostError("the connection ended: it did not close in time: connect again"))
            self._dispatch()
            if deadline:
                await _end_stream(self._sock, b"", deadline)
            self._sock.close()

    async def _finish(self, reader: asyncio.Task[None], writer: asyncio.Task[None]) -> float:
        """Step 1 of ending the stream, and waits for the close-ack. Returns when the socket is to be closed."""
        session, start = self.session, self._loop.time()
        if session.close_sent:
            idle = session.initiator and not session.has_sent
            await asyncio.wait({reader, writer}, timeout=IDLE_CLOSE_SECONDS if idle else CLOSE_SECONDS)
            return self._loop.time() + END_SECONDS
        if self._write_error is not None:
            await asyncio.wait({reader}, timeout=END_SECONDS)
            session.lost(self._write_error)
        else:
            await asyncio.wait({writer}, timeout=END_SECONDS)
        return start + END_SECONDS

    async def _read_loop(self) -> None:
        session = self.session
        self._dispatch()  # what came with ServerFinish
        while not session.input_over:
            await self._wait_for_room()
            try:
                data = await self._loop.sock_recv(self._sock, CHUNK)
            except OSError as error:
                session.lost(self._write_error or LostError(f"the connection ended: reading failed: {error}: connect again"))
            else:
                self._activity = self._loop.time()
                self._take(data)
            self._dispatch()
            await asyncio.sleep(0)

    def _take(self, data: bytes) -> None:
        if data:
            self.session.receive(data)
        elif self._write_error is not None and not self.session.peer_closed:
            self.session.lost(self._write_error)
        else:
            self.session.receive_end()

    async def _write_loop(self) -> None:
        session = self.session
        try:
            while not session.output_over:
                data = session.next_output()
                self._dispatch()
                if data:
                    await self._send(data)
                    self._confirm_writes()
                elif not session.output_over:
                    self._wake.clear()
                    await self._wake.wait()
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._write_error = LostError(f"the connection ended: writing failed: {error}: connect again")
            session.stop_writing()
            self._dispatch()
        finally:
            self._fail_writes()

    async def _send(self, data: bytes) -> None:
        """Writes all of data. In a long unit each part counts as activity, because pings wait for its end."""
        view = memoryview(data)
        for start in range(0, len(data), 4 * CHUNK):
            if start > 0:
                self._activity = self._loop.time()
            await self._loop.sock_sendall(self._sock, view[start:start + 4 * CHUNK])

    async def _beat_loop(self) -> None:
        """Sends pings, and finds the peer lost [C-7]."""
        interval = self._client.heartbeat
        while interval > 0:
            idle = 0.0 if self._stopped else self._loop.time() - self._activity
            if idle >= 2 * interval:
                self.session.lost(LostError(f"the connection ended: nothing arrived for {2 * interval} s: connect again"))
                self._dispatch()
                return
            if idle >= interval:
                self.session.ping()
                self._wake.set()
            await asyncio.sleep((interval if idle < interval else 2 * interval) - idle)

    async def _wait_for_room(self) -> None:
        """Does not read while the application has too much unread [C-4], [Q-8]."""
        stopped = ping = self._loop.time()
        while self._client.is_full() and not self.session.close_sent and not self._ending.is_set():
            self._stopped = True
            now = self._loop.time()
            if now >= ping + STOPPED_PING_SECONDS:
                ping = now
                self.session.ping()
                self._wake.set()
            self._fail_calls(stopped, now)
            await self._client.wait_for_read(0.1)
        if self._stopped:
            self._stopped = False
            self._activity = self._loop.time()

    def _fail_calls(self, stopped: float, now: float) -> None:
        """Fails the requests whose replies this side cannot reach [Q-8]."""
        for request, (future, made) in list(self._calls.items()):
            if now >= max(stopped, made) + STOPPED_SECONDS and not future.done():
                self.session.give_up(request)
                if request.sealed:
                    future.set_exception(UnconfirmedError(
                        "the request failed: too many messages before its reply are unread: read them, and send it "
                        "again only if it may be handled twice"))
                else:
                    future.set_exception(_not_sent())

    def _confirm_writes(self) -> None:
        """The system has all that was sealed, except the data of a large frame that follows its head."""
        pending = self.session.pending_large()
        while self._writes and self._writes[0][0].sealed:
            if pending and (len(self._writes) == 1 or not self._writes[1][0].sealed):
                break
            _, future = self._writes.popleft()
            if not future.done():
                future.set_result(None)

    def _fail_writes(self) -> None:
        for outgoing, future in self._writes:
            if not future.done():
                future.set_exception(_unconfirmed_write() if outgoing.sealed else _not_sent())
        self._writes.clear()

    def _dispatch(self) -> None:
        """Hands the events of the session over."""
        session = self.session
        for event in session.events():
            if isinstance(event, Received):
                if not event.discarded:
                    event.message.connection = self.number
                    self._client.deliver(event.message)
            elif isinstance(event, Ended):
                self._client.on_end(self, event.error)
            else:
                self._finish_call(event)
        self._wake.set()
        if session.over():
            self._ending.set()

    def _finish_call(self, event: Replied | Failed) -> None:
        future, _ = self._calls.get(event.request, (None, 0.0))
        if future is None or future.done():
            return
        if isinstance(event, Failed):
            future.set_exception(event.error)
        else:
            event.message.connection = self.number
            future.set_result(event.message)


def _unconfirmed_write() -> UnconfirmedError:
    return UnconfirmedError("sending failed: the connection ended meanwhile, and the server may have received the message: "
                            "send it again only if it may be handled twice")


# The asyncio client


class AsyncClient:
    """A client for asyncio. All its methods are for the loop that connect runs in.

    Use it as a context manager, which connects and closes, or call connect and close.
    """

    def __init__(self, config: Config, sources: Sources | None = None) -> None:
        self.config = config
        self._sources = Sources() if sources is None else sources
        self.status = Status.CONNECTING
        self.encrypted = False  # how the current connection is protected
        self.hybrid = False
        self._link: _Link | None = None
        self._links = 0
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._unread = 0
        self._read_event = asyncio.Event()
        self._final: GipcError | None = None
        self._end_unread = False
        self._reconnecting: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        default = TCP_HEARTBEAT_SECONDS if config.network == "tcp" else 0.0
        self.heartbeat = default if config.heartbeat is None else config.heartbeat

    async def __aenter__(self) -> AsyncClient:
        if self._link is None:
            await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> None:
        try:
            await self.close()
        except GipcError:
            if kind is None:
                raise

    async def connect(self) -> None:
        """Connects, and tries again until Config.timeout.

        Raises ConfigError, RefusedError, UnprovenError and UntrustedServerError at once where another
        attempt would fail as well, and otherwise ConnectTimeoutError, whose cause is the last failure.
        """
        if self._link is not None or self._final is not None:
            raise ClosedError("connecting failed: this client has been connected before: make another one")
        try:
            await self._connect(first=True, pause=FIRST_DELAY_SECONDS)
        except BaseException as error:
            self.status = Status.TIMEOUT if isinstance(error, ConnectTimeoutError) else Status.CLOSED
            self._end(error if isinstance(error, GipcError) else _closed())
            await self._wait_for_background()
            raise

    async def read(self, timeout: float | None = None) -> Message:
        """The next message or request, or with Config.reconnect a change of the status.

        Raises TimedOutError after timeout seconds. Raises an EndError when the connection has ended and
        there is nothing left to read, without Config.reconnect; ConnectTimeoutError behind the status
        Timeout; ClosedError after a close of this side.
        """
        try:
            async with asyncio.timeout(timeout):
                item = await self._inbox.get()
        except TimeoutError:
            raise TimedOutError(f"reading failed: nothing arrived within {timeout} s: read again") from None
        return self.take(item)

    async def write(self, type: int, data: bytes, timeout: float | None = None) -> None:
        """Sends a message. Returns when the system has all of it, which can be before the peer has it.

        Raises TooLargeError, ReservedTypeError, NotConnectedError and ClosedError if nothing was sent, and
        UnconfirmedError if it may have been. After timeout seconds it raises UnconfirmedError, and the message is
        still sent.
        """
        link = self._live_link()
        await self._write(link, link.session.send(type, bytes(data)), timeout)

    async def call(self, type: int, data: bytes, timeout: float | None = None) -> Message:
        """Sends a request and returns its reply.

        Raises the errors of write. UnconfirmedError also means that no reply came within timeout seconds, or
        before the end of the connection: the peer may have handled the request.
        """
        link = self._live_link()
        request = link.session.request(type, bytes(data))
        try:
            async with asyncio.timeout(timeout):
                return await link.reply_to(request)
        except TimeoutError:
            if not request.sealed:
                raise NotConnectedError(f"the request failed: it was not sent within {timeout} s, and was taken back: "
                                        "send it again") from None
            raise UnconfirmedError(f"the request failed: no reply within {timeout} s, and the server may have handled it: "
                                   "send it again only if it may be handled twice") from None

    async def reply(self, message: Message, data: bytes, type: int | None = None, timeout: float | None = None) -> None:
        """Replies to a request, once. Without a type the reply has that of the request.

        Raises ReplyError if message is no request or has its reply, NotConnectedError if its connection is over,
        and the errors of write.
        """
        if not message.is_request or message.replied:
            why = "it has its reply already" if message.is_request else "it is no request"
            raise ReplyError(f"replying failed: {why}: reply once to each request")
        link = self._live_link()
        if message.connection != link.number:
            raise NotConnectedError("replying failed: the connection of the request is over, and nothing was sent: wait for "
                                    "the server to ask again")
        outgoing = link.session.reply(message.number, message.type if type is None else type, bytes(data))
        message.replied = True
        await self._write(link, outgoing, timeout)

    async def close(self) -> None:
        """Closes, and waits up to 5 s for the close-ack, or 1 s if nothing was sent.

        Returns when the peer has received everything that was sent since the last connecting, or when the end of
        that connection has been read. Otherwise it raises UndeliveredError. The client is closed in any case, and
        what it held stays readable. A second call does nothing.
        """
        if self.status in (Status.CLOSING, Status.CLOSED) and isinstance(self._final, ClosedError):
            return
        self.status = Status.CLOSING
        self._end(_closed())
        link = self._link
        try:
            if self._reconnecting is not None:
                self._reconnecting.cancel()
                await asyncio.gather(self._reconnecting, return_exceptions=True)
            if link is not None:
                link.close()
                await asyncio.shield(link.task)
            await self._wait_for_background()
        except asyncio.CancelledError:
            for task in self._background:
                task.cancel()
            raise
        finally:
            self.status = Status.CLOSED
        if link is not None and not link.session.delivered() and (link.session.initiator or self._end_unread):
            raise UndeliveredError("closing failed: the server has not confirmed that it received everything: send again "
                                   "on a new connection what must not be lost")

    # For _Link and Client

    def deliver(self, message: Message) -> None:
        """Puts a message into the queue of the readers."""
        if message.status is None:
            self._unread += len(message.data) + UNREAD_EACH
        self._inbox.put_nowait(message)

    def take(self, item: Message | None) -> Message:
        """What the reader gets for an item of the queue. None is the end."""
        if item is None:
            self._inbox.put_nowait(None)
            self._end_unread = False
            assert self._final is not None
            raise self._final.with_traceback(None)
        if item.status is not None:
            self._end_unread = False
        else:
            self._unread -= len(item.data) + UNREAD_EACH
            self._read_event.set()
        return item

    def take_nowait(self) -> Message:
        """read for a client that is closed."""
        return self.take(self._inbox.get_nowait())

    def is_full(self) -> bool:
        """Whether the application has so much unread that nothing more is read [C-4]."""
        return self._unread >= UNREAD_BYTES

    async def wait_for_read(self, seconds: float) -> None:
        """Waits until the application has read something, or for some seconds."""
        self._read_event.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._read_event.wait()
        except TimeoutError:
            pass

    def on_end(self, link: _Link, error: EndError) -> None:
        """The connection has ended, and this side has not closed it."""
        if self.status is not Status.CONNECTED or link is not self._link:
            return
        self._end_unread = True
        if not self.config.reconnect:
            self.status = Status.CLOSED
            self._end(error)
            return
        self.status = Status.RECONNECTING
        cause = None if isinstance(error, PeerClosedError) else error
        self.deliver(Message(-1, status=self.status, error=cause, connection=link.number))
        lasted = asyncio.get_running_loop().time() - link.started
        pause = 0.0 if lasted > self.config.retry_cap else FIRST_DELAY_SECONDS
        self._reconnecting = asyncio.create_task(self._reconnect(pause))

    # Connecting

    def _live_link(self) -> _Link:
        if self._link is None or self.status is not Status.CONNECTED:
            if isinstance(self._final, ClosedError):
                raise ClosedError("sending failed: this client is closed, and nothing was sent: make another one")
            raise _not_sent()
        return self._link

    async def _write(self, link: _Link, outgoing: Outgoing, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await link.written(outgoing)
        except TimeoutError:
            raise UnconfirmedError(f"sending failed: the system did not take the message within {timeout} s, and it is "
                                   "still being sent: do not send it again, and look why the server does not read") from None

    async def _reconnect(self, pause: float) -> None:
        if pause > 0:
            await asyncio.sleep(_with_jitter(pause))
        try:
            await self._connect(first=False, pause=FIRST_DELAY_SECONDS)
        except GipcError as error:
            self.status = Status.TIMEOUT if isinstance(error, ConnectTimeoutError) else Status.CLOSED
            self.deliver(Message(-1, status=self.status, error=error))
            self._end(error)

    async def _connect(self, first: bool, pause: float) -> None:
        """Attempts to connect until one succeeds, with growing pauses."""
        loop = asyncio.get_running_loop()
        deadline = None if self.config.timeout is None else loop.time() + self.config.timeout
        failure: Exception = TimeoutError("the server did not answer")
        while True:
            try:
                async with asyncio.timeout_at(deadline if self.config.timeout else None):
                    await self._attempt()
                return
            except (OSError, GipcError) as error:
                if isinstance(error, ConfigError | ClosedError) or first and _is_permanent(error):
                    raise
                if str(error):  # the deadline has no text, and hides no cause
                    failure = error
            if self.config.timeout == 0 and isinstance(failure, GipcError):
                raise failure
            jittered = _with_jitter(pause)
            if deadline is not None and loop.time() + jittered >= deadline:
                raise self._timeout_error(failure) from failure
            await asyncio.sleep(jittered)
            pause = min(2 * pause, self.config.retry_cap)

    def _timeout_error(self, failure: Exception) -> ConnectTimeoutError:
        where = self.config.address or f"the address of {self.config.name!r} on {self.config.network}"
        why = str(failure) or type(failure).__name__
        return ConnectTimeoutError(f"connecting failed: no connection to {where} within {self.config.timeout} s, at last: "
                                   f"{why}: check that the server runs, and its name and address")

    async def _attempt(self) -> None:
        """Connects once. Raises OSError, HandshakeError, ConfigError, UntrustedServerError."""
        config = self.config
        sock = await _open_tcp(config) if config.network == "tcp" else _open_unix(config)
        shake = Handshake(config, self._sources)
        try:
            await _shake_hands(sock, config, shake)
        except BaseException:
            deadline = asyncio.get_running_loop().time() + END_SECONDS
            self._in_background(asyncio.create_task(_end_stream(sock, shake.output(), deadline)))
            raise
        if self._final is not None:
            sock.close()
            raise _closed()
        self._start_link(sock, shake)

    def _start_link(self, sock: socket.socket, shake: Handshake) -> None:
        self._links += 1
        self.encrypted, self.hybrid = shake.encrypted, shake.hybrid
        self.status = Status.CONNECTED
        if self._links > 1:
            self.deliver(Message(-1, status=self.status, connection=self._links))
        self._link = _Link(self, sock, shake.session(), self._links)
        self._in_background(self._link.task)

    def _in_background(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _wait_for_background(self) -> None:
        if self._background:
            await asyncio.wait(set(self._background))

    def _end(self, error: GipcError) -> None:
        """There is nothing more to read behind what the queue holds."""
        if self._final is None:
            self._inbox.put_nowait(None)
        self._final = error


def _closed() -> ClosedError:
    return ClosedError("reading failed: this client is closed, and there is nothing left to read: make another one")


def _with_jitter(pause: float) -> float:
    return pause * random.uniform(0.5, 1.0)


def _is_permanent(error: Exception) -> bool:
    return isinstance(error, UntrustedServerError) or isinstance(error, HandshakeError) and error.permanent


async def connect_async(config: Config) -> AsyncClient:
    """A connected AsyncClient. Raises the errors of AsyncClient.connect."""
    client = AsyncClient(config)
    await client.connect()
    return client


# The blocking client

_T = TypeVar("_T")


class Client:
    """A client whose calls block. Threads may share it.

    A thread of its own runs an AsyncClient, so pings are answered and a close is noticed while the
    application does something else. The calls and the errors are those of AsyncClient.
    """

    def __init__(self, config: Config, sources: Sources | None = None) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client = AsyncClient(config, sources)

    def __enter__(self) -> Client:
        if self._thread is None:
            self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        try:
            self.close()
        except GipcError:
            if kind is None:
                raise

    @property
    def status(self) -> Status:
        """The status now."""
        return self._client.status

    @property
    def encrypted(self) -> bool:
        """Whether the current connection is encrypted."""
        return self._client.encrypted

    @property
    def hybrid(self) -> bool:
        """Whether the key agreement of the current connection was hybrid."""
        return self._client.hybrid

    def connect(self) -> None:
        """See AsyncClient.connect."""
        with self._lock:
            if self._thread is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name="gipc", daemon=True)
                self._thread.start()
        try:
            self._do(self._client.connect())
        except BaseException:
            if self._client.status is not Status.CONNECTED:
                self._stop()
            raise

    def read(self, timeout: float | None = None) -> Message:
        """See AsyncClient.read."""
        return self._do(self._client.read(timeout), self._client.take_nowait)

    def write(self, type: int, data: bytes, timeout: float | None = None) -> None:
        """See AsyncClient.write."""
        self._do(self._client.write(type, data, timeout))

    def call(self, type: int, data: bytes, timeout: float | None = None) -> Message:
        """See AsyncClient.call."""
        return self._do(self._client.call(type, data, timeout))

    def reply(self, message: Message, data: bytes, type: int | None = None, timeout: float | None = None) -> None:
        """See AsyncClient.reply."""
        self._do(self._client.reply(message, data, type, timeout))

    def close(self) -> None:
        """See AsyncClient.close."""
        if self._loop is None:
            return
        try:
            self._do(self._client.close())
        finally:
            self._stop()

    def _do(self, coroutine: Coroutine[Any, Any, _T], closed: Callable[[], _T] | None = None) -> _T:
        """Runs a coroutine in the thread of the loop. closed is called instead if the loop has ended."""
        with self._lock:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop) if self._loop else None
        if future is None:
            coroutine.close()
            if closed is not None and self._client.status in (Status.CLOSED, Status.TIMEOUT):
                return closed()
            raise ClosedError("the call failed: this client is closed or was not connected: connect first")
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClosedError("the call failed: this client was closed meanwhile: make another one") from None
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        """Ends the thread."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Runs the loop until it is stopped, and then ends what is left in it."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()


def connect(config: Config) -> Client:
    """A connected Client. Raises the errors of AsyncClient.connect."""
    client = Client(config)
    client.connect()
    return client
