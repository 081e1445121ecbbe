"""Tests of gipc.py: the vectors of ../vectors, and both clients against a server.

    python3 -m unittest discover -s spec/python
    python3 spec/python/test_gipc.py

Vectors that are not run: the 88 of the test "server", because they concern the server's side of the
handshake, which a client does not have. Of the test "handshake" the client's side is run: what it writes,
its keys, the records it seals, and the records of the server, which it opens. All others are run.

The server of the tests is in this file. Where go is in PATH, a server of the Go library is used too.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import hmac
import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import unittest
import unittest.mock
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import gipc  # noqa: E402

VECTORS = HERE.parent / "vectors"
ROOT = HERE.parent.parent

# How many files of each test must run at least. New ones may be added; fewer are a mistake.
LEAST = {"client": 101, "config": 12, "frame": 27, "handshake": 33, "receive": 223, "record": 25, "session": 104}
NOT_RUN = {"server"}

COMMON_KEYS = "comment cites test expect"
KEYS = {
    "handshake": "name secret encryption client_encryption server_private client_private server_limit client_limit rekey_at "
    "kem_seed kem_randomness shared_x kem_key kem_ciphertext kem_secret transcript_hash client_confirm_key "
    "server_confirm_key client_traffic server_traffic client_key server_key server_hello client_hello server_finish "
    "frame* record*",
    "client": "name secret client_encryption client_private client_limit kem_randomness kem_ciphertext kem_secret server_sends "
    "then client_writes rest",
    "frame": "limit frame type id data fails_after",
    "record": "key sequence plaintext nonce sealed",
    "receive": "traffic_secret sequence rekey_at limit sent_close stream then delivers* fails_after",
    "session": "in_secret out_secret limit step*",
    "config": "name secret",
}


class Vector:
    """A file of vectors. Fields that may be repeated are lists."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.lines: dict[str, list[str]] = {}
        text = path.read_bytes().decode("utf-8")
        for line in text.removesuffix("\n").split("\n"):
            key, colon, value = line.partition(": ")
            assert colon, f"{path.name}: {line[:40]} is no key and value"
            self.lines.setdefault(key, []).append(value)
        self.test = self.text("test")
        self.expect = self.text("expect")

    def check_keys(self) -> None:
        """Each key of the test stands exactly once, or is marked with *, and there is no other."""
        keys = (COMMON_KEYS + " " + KEYS[self.test]).split()
        repeated = {key[:-1] for key in keys if key.endswith("*")}
        single = {key for key in keys if not key.endswith("*")}
        assert single <= self.lines.keys() <= single | repeated, f"{self.path.name}: the keys are {list(self.lines)}"
        assert all(len(self.lines[key]) == 1 for key in single), f"{self.path.name}: a key is repeated"

    def text(self, key: str) -> str:
        (value,) = self.lines[key]
        return value

    def data(self, key: str) -> bytes:
        return unhex(self.text(key))

    def optional(self, key: str) -> bytes | None:
        return None if self.text(key) == "-" else self.data(key)

    def number(self, key: str) -> int:
        return int(self.text(key))

    def number_or_none(self, key: str) -> int | None:
        return None if self.text(key) == "-" else int(self.text(key))

    def words(self, key: str) -> list[list[str]]:
        return [line.split(" ") for line in self.lines.get(key, [])]


def unhex(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def outcome(error: gipc.GipcError) -> str:
    """An error in the words of a vector."""
    if isinstance(error, gipc.RefusedError):
        return f"handshake {'refused' if error.by_server else 'refuse'} {error.reason}"
    if isinstance(error, gipc.UnprovenError):
        return "handshake unproven"
    if isinstance(error, gipc.HandshakeTruncatedError):
        return "handshake truncated"
    if isinstance(error, gipc.MalformedError):
        return f"{error.layer} malformed"
    if isinstance(error, gipc.NotAuthenticError):
        return "record not-authentic"
    if isinstance(error, gipc.TruncatedError):
        return "frame truncated-inside" if error.inside else "frame truncated-boundary"
    if isinstance(error, gipc.PeerClosedError):
        return "close received"
    raise AssertionError(f"unexpected {error!r}")


def pieces(data: bytes) -> Iterator[list[bytes]]:
    """Ways to divide a stream into reads [F-8]."""
    yield [data]
    for size in (1, 7) if len(data) < 2500 else (1000,):
        yield [data[i:i + size] for i in range(0, len(data), size)]


def config_of(vector: Vector, limit: int) -> gipc.Config:
    return gipc.Config(vector.data("name"), secret=vector.optional("secret"), limit=limit,
                       require_encryption=vector.text("client_encryption") == "required")


def sources_of(vector: Vector, rekey_at: int = gipc.REKEY_AT) -> gipc.Sources:
    """The key, and the ML-KEM values, of a vector."""
    scalar = int.from_bytes(vector.data("client_private"), "big")
    encapsulate = None
    if vector.text("kem_randomness") != "-":
        def encapsulate(key: bytes) -> tuple[bytes, bytes]:
            assert len(key) == gipc.KEM_SIZE
            return vector.data("kem_secret"), vector.data("kem_ciphertext")
    return gipc.Sources(lambda: ec.derive_private_key(scalar, ec.SECP384R1()), encapsulate, rekey_at=rekey_at)


def split_frames(plaintext: bytes) -> list[tuple[int, int | None, bytes]]:
    """Frames as (user's type, id or None, data), without the code under test."""
    frames, start = [], 0
    while start < len(plaintext):
        length, kind = struct.unpack_from(">LL", plaintext, start)
        number, head = None, 8
        if kind >> 31:
            (number,), head = struct.unpack_from(">Q", plaintext, start + 8), 16
        data = plaintext[start + head:start + 4 + length]
        assert len(data) == length + 4 - head, "a frame is incomplete"
        frames.append((kind & 0x7FFFFFFF, number, data))
        start += 4 + length
    return frames


class Opener:
    """Opens what the side under test writes, without the code under test. The threshold is not reached."""

    def __init__(self, secret: bytes | None) -> None:
        self.secret = secret
        self.sequence = 0
        self.head = b""
        self.nonces: set[bytes] = set()

    def frames(self, unit: bytes) -> list[tuple[int, int | None, bytes]]:
        """The frames that a unit completes. A unit is what Session.next_output gives."""
        if self.secret is None:
            return split_frames(unit)
        key = hmac.digest(self.secret, b"gipc/3 key\x01", "sha384")[:32]
        length, nonce = int.from_bytes(unit[:4], "big"), unit[4:16]
        assert length == len(unit) - 4 and nonce not in self.nonces
        self.nonces.add(nonce)
        plaintext = AESGCM(key).decrypt(nonce, unit[16:], struct.pack(">Q", self.sequence))
        self.sequence += 1
        if self.head:
            whole, self.head = self.head + plaintext, b""
            frames = split_frames(whole)
            assert len(frames) == 1 and len(frames[0][2]) == len(plaintext), "a record of data has something else"
            return frames
        assert len(plaintext) <= 65536
        return self._record_of_frames(plaintext)

    def _record_of_frames(self, plaintext: bytes) -> list[tuple[int, int | None, bytes]]:
        start = 0
        while start < len(plaintext):
            length, kind = struct.unpack_from(">LL", plaintext, start)
            head = 16 if kind >> 31 else 8
            if length + 4 - head >= 16384:
                self.head = plaintext[start:]
                assert len(self.head) == head, "something follows the head of a large frame"
                break
            start += 4 + length
        return split_frames(plaintext[:start])


# Vectors


class VectorTest(unittest.TestCase):
    def test_vectors(self) -> None:
        """Runs every file, and counts them."""
        runners = {"handshake": self.run_handshake, "client": self.run_client, "frame": self.run_frame,
                   "record": self.run_record, "receive": self.run_receive, "session": self.run_session,
                   "config": self.run_config}
        counts = dict.fromkeys(LEAST, 0)
        for path in sorted(VECTORS.glob("*.txt")):
            vector = Vector(path)
            if vector.test in NOT_RUN:
                continue
            with self.subTest(path.stem):
                vector.check_keys()
                runners[vector.test](vector)
            counts[vector.test] += 1
        for test, least in LEAST.items():
            self.assertGreaterEqual(counts[test], least, f"vectors of the test {test}")

    def run_config(self, vector: Vector) -> None:
        try:
            gipc.Config(vector.data("name"), secret=vector.optional("secret"))
            result = "ok"
        except gipc.ConfigError:
            result = "config invalid"
        self.assertEqual(result, vector.expect)

    def run_frame(self, vector: Vector) -> None:
        stream, limit = vector.data("frame"), vector.number("limit")
        if vector.expect == "ok":
            head = gipc.read_head(stream, limit)
            assert head is not None
            self.assertEqual((head.type, head.id), (vector.number("type"), vector.number_or_none("id")))
            self.assertEqual(stream[head.size:4 + head.length], vector.data("data"))
            return
        after = vector.number("fails_after")
        gipc.read_head(stream[:after - 1], limit)
        for start in (b"", b"before"):
            with self.assertRaises(gipc.MalformedError) as raised:
                gipc.read_head(start + stream[:after], limit, len(start))
            self.assertEqual(outcome(raised.exception), vector.expect)

    def run_record(self, vector: Vector) -> None:
        sealed = vector.data("sealed")
        # The vector has the key, and the class takes the secret that the key is derived from.
        with unittest.mock.patch.object(gipc, "frame_key", lambda _: vector.data("key")):
            opening = gipc.Direction(b"", sequence=vector.number("sequence"))
            sealing = gipc.Direction(b"", sequence=vector.number("sequence"))
        try:
            self.assertEqual(opening.open(sealed[4:]), vector.data("plaintext"))
            self.assertEqual(sealing.seal(vector.data("plaintext"), vector.data("nonce")), sealed)
            result = "ok"
        except gipc.NotAuthenticError as error:
            result = outcome(error)
        self.assertEqual(result, vector.expect)

    def run_handshake(self, vector: Vector) -> None:
        shake = gipc.Handshake(config_of(vector, vector.number("client_limit")),
                               sources_of(vector, vector.number("rekey_at")))
        shake.receive(vector.data("server_hello"))
        self.assertEqual(shake.output(), vector.data("client_hello"))
        shake.receive(vector.data("server_finish"))
        self.assertTrue(shake.done)
        self.assertEqual(shake.peer_limit, vector.number("server_limit"))
        self.assertEqual(shake.output(), b"")
        if shake.schedule is None:
            self.assertEqual(vector.text("transcript_hash"), "-")
        else:
            self.check_keys(vector, shake.schedule)
        session = shake.session()
        self.check_frames(vector, session)
        self.check_records(vector, session)

    def check_keys(self, vector: Vector, schedule: gipc.KeySchedule) -> None:
        for key in ("transcript_hash", "client_confirm_key", "server_confirm_key", "client_traffic", "server_traffic"):
            self.assertEqual(getattr(schedule, key), vector.data(key), key)
        self.assertEqual(gipc.frame_key(schedule.client_traffic), vector.data("client_key"))
        self.assertEqual(gipc.frame_key(schedule.server_traffic), vector.data("server_key"))

    def check_frames(self, vector: Vector, session: gipc.Session) -> None:
        for side, kind, data, frame in vector.words("frame"):
            if side == "client":
                session.send(int(kind), unhex(data))
                self.assertEqual(session.next_output(), unhex(frame))
            else:
                session.receive(unhex(frame))
                self.assertEqual(messages(session), [(int(kind), unhex(data), 0)])

    def check_records(self, vector: Vector, session: gipc.Session) -> None:
        """Sends the frames of each record of the client, and compares the record; opens those of the server."""
        records = [(side, unhex(plaintext), unhex(nonce), unhex(record))
                   for side, plaintext, nonce, record in vector.words("record")]
        incoming, outgoing = b"", b""
        for i, (side, plaintext, nonce, record) in enumerate(records):
            if side == "server":
                incoming += plaintext
                session.receive(record)
                continue
            is_data = bool(outgoing)
            outgoing += plaintext
            if not is_data:
                data = b"".join(p for s, p, _, _ in records[i + 1:] if s == "client")
                outgoing = self.send_frames(session, plaintext, data)
            else:
                outgoing = b""
            session._sources = gipc.Sources(nonce=functools.partial(bytes, nonce))
            self.assertEqual(session.next_output(), record)
        expected = [(kind, data, number or 0) for kind, number, data in split_frames(incoming) if kind]
        self.assertEqual(messages(session), expected)

    def send_frames(self, session: gipc.Session, plaintext: bytes, following: bytes) -> bytes:
        """Sends what stands in a record. Returns the head of a large frame at its end."""
        start = 0
        while start < len(plaintext):
            length, kind = struct.unpack_from(">LL", plaintext, start)
            if start + 4 + length > len(plaintext):
                session._queue.append(gipc.Outgoing(kind, following[:length - 4]))
                return plaintext[start:]
            # A session sends no control frame of the application, so the queue is filled directly.
            session._queue.append(gipc.Outgoing(kind, plaintext[start + 8:start + 4 + length]))
            start += 4 + length
        return b""

    def run_client(self, vector: Vector) -> None:
        for parts in pieces(vector.data("server_sends")):
            shake = gipc.Handshake(config_of(vector, vector.number("client_limit")), sources_of(vector))
            rest = b""
            try:
                for part in parts:
                    if shake.done:
                        rest += part
                    else:
                        shake.receive(part)
                if not shake.done and vector.text("then") == "end":
                    shake.receive_end()
                result = "ok" if shake.done else "waiting"
            except gipc.HandshakeError as error:
                result = outcome(error)
            self.assertEqual(result, vector.expect)
            self.assertEqual(shake.output(), vector.data("client_writes"))
            self.assertEqual(bytes(shake._buffer) + rest if shake.done else b"", vector.data("rest"))

    def run_receive(self, vector: Vector) -> None:
        stream, after = vector.data("stream"), vector.number_or_none("fails_after")
        expected = (vector.expect, [(int(w[0]), unhex(w[1]), int(w[2]) if len(w) > 2 else 0)
                                    for w in vector.words("delivers")])
        for parts in pieces(stream):
            self.assertEqual(self.receive(vector, parts, vector.text("then") == "end"), expected)
        if after is not None:
            self.assertEqual(self.receive(vector, [stream[:after]], False), expected)
            self.assertIn(self.receive(vector, [stream[:after - 1]], False)[0], ("ok", "close received"))

    def receive(self, vector: Vector, parts: list[bytes], end: bool) -> tuple[str, list[tuple[int, bytes, int]]]:
        """The result, and what was delivered."""
        secret, sent_close = vector.optional("traffic_secret"), vector.text("sent_close") == "yes"
        direction = gipc.Direction(secret, vector.number("rekey_at"), vector.number("sequence")) if secret else None
        receiver = gipc.Receiver(direction, vector.number("limit"))
        receiver.close_sent = sent_close
        delivered: list[tuple[int, bytes, int]] = []
        closed = False
        try:
            for part in parts:
                receiver.feed(part)
                while (unit := receiver.unit()) is not None:
                    for frame in unit:
                        if receiver.close_read and not sent_close:
                            return "close received", delivered
                        closed = closed or receiver.close_read
                        if frame.type and not closed and not (frame.id or 0) >> 63:
                            delivered.append((frame.type & 0x7FFFFFFF, frame.data, frame.id or 0))
            if end and not closed:
                raise gipc.TruncatedError(not receiver.at_boundary())
        except gipc.EndError as error:
            return outcome(error), delivered
        return "ok", delivered

    def run_session(self, vector: Vector) -> None:
        for size in (None, 1) if len(vector.path.read_bytes()) < 5000 else (None,):
            SessionScript(self, vector, size).run()


def messages(session: gipc.Session) -> list[tuple[int, bytes, int]]:
    """The messages among the events of a session."""
    events = [event for event in session.events() if isinstance(event, gipc.Received)]
    return [(e.message.type, e.message.data, e.message.number) for e in events if not e.discarded]


class SessionScript:
    """Runs the steps of a vector of the test session. size divides what the peer sends."""

    def __init__(self, case: unittest.TestCase, vector: Vector, size: int | None) -> None:
        self.case, self.vector, self.size = case, vector, size
        incoming, outgoing = vector.optional("in_secret"), vector.optional("out_secret")
        secrets = (incoming, outgoing) if incoming and outgoing else None
        limit = vector.number("limit")
        self.session = gipc.Session(secrets, limit, limit)
        self.opener = Opener(outgoing)
        self.written: list[tuple[int, int | None, bytes]] = []
        self.events: list[gipc.Event] = []
        self.requests: list[gipc.Outgoing] = []
        self.result = "ok"

    def run(self) -> None:
        for word, *arguments in self.vector.words("step"):
            getattr(self, "do_" + word.replace("-", "_"))(*arguments)
        self.update()
        self.case.assertEqual(self.written, [], "written but not expected")
        left = [event for event in self.events if not isinstance(event, gipc.Ended)
                and not (isinstance(event, gipc.Received) and event.discarded)]
        self.case.assertEqual(left, [])
        self.case.assertEqual(self.result, self.vector.expect)

    def update(self) -> None:
        while unit := self.session.next_output():
            self.written += self.opener.frames(unit)
        self.events += self.session.events()

    def event(self, kind: type[Any]) -> Any:
        """The next event, which has this kind. Messages that are discarded do not count."""
        self.update()
        events = [e for e in self.events if not (isinstance(e, gipc.Received) and e.discarded)]
        # Replies and failures go to their callers, so their place among messages means nothing.
        events = [e for e in events if isinstance(e, gipc.Received | gipc.Ended) == (kind in (gipc.Received, gipc.Ended))]
        self.case.assertTrue(events, f"no event of the kind {kind.__name__}")
        self.case.assertIsInstance(events[0], kind)
        self.events.remove(events[0])
        return events[0]

    def do_peer(self, data: str) -> None:
        stream = unhex(data)
        size = self.size or len(stream)
        for start in range(0, len(stream), size):
            self.session.receive(stream[start:start + size])

    def do_peer_ends(self) -> None:
        self.session.receive_end()

    def do_delivers(self, kind: str, data: str, number: str = "0") -> None:
        message = self.event(gipc.Received).message
        self.case.assertEqual((message.type, message.data, message.number), (int(kind), unhex(data), int(number)))

    def do_sends(self, kind: str, data: str) -> None:
        self.session.send(int(kind), unhex(data))

    def do_requests(self, kind: str, data: str) -> None:
        self.requests.append(self.session.request(int(kind), unhex(data)))

    def do_replies(self, number: str, kind: str, data: str) -> None:
        self.session.reply(int(number), int(kind), unhex(data))

    def do_replied(self, number: str, kind: str, data: str) -> None:
        event = self.event(gipc.Replied)
        self.case.assertIs(event.request, self.requests[int(number) - 1])
        self.case.assertEqual((event.message.type, event.message.data), (int(kind), unhex(data)))

    def do_gives_up(self, number: str) -> None:
        self.session.give_up(self.requests[int(number) - 1])

    def do_fails(self, number: str) -> None:
        event = self.event(gipc.Failed)
        self.case.assertIs(event.request, self.requests[int(number) - 1])
        self.case.assertIsInstance(event.error, gipc.UnconfirmedError)

    def do_closes(self) -> None:
        self.session.close()

    def do_writes(self, kind: str, data: str, number: str | None = None) -> None:
        self.update()
        self.case.assertTrue(self.written, "nothing was written")
        self.case.assertEqual(self.written.pop(0), (int(kind), None if number is None else int(number), unhex(data)))

    def do_writes_end(self) -> None:
        self.update()
        self.case.assertEqual(self.written, [])
        self.case.assertTrue(self.session.output_over)

    def do_ends(self, why: str) -> None:
        error = self.event(gipc.Ended).error
        self.result = outcome(error)
        words = {"close": "close received", "not-authentic": "record not-authentic", "malformed": self.vector.expect,
                 "truncated-boundary": "frame truncated-boundary", "truncated-inside": "frame truncated-inside"}
        self.case.assertEqual(self.result, words[why])

    def do_closed(self, how: str) -> None:
        delivered = "ok" if self.session.delivered() else "undelivered"
        self.case.assertEqual(delivered, how)
        self.result = "ok" if delivered == "ok" else "close undelivered"


# A server for the tests


def kem_pair() -> Any:
    """A new ML-KEM-1024 key, or None without ML-KEM."""
    if gipc.find_encapsulate() is None:
        return None
    mlkem: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.mlkem")
    return mlkem.MLKEM1024PrivateKey.generate()


class Peer:
    """The server's side of one connection. It blocks, and each wait has a limit."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(8)
        self.session: gipc.Session
        self.events: list[gipc.Event] = []
        self.client_flags = 0

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise ConnectionError("the stream ended in the handshake")
            data += part
        return data

    def shake(self, name: bytes, secret: bytes | None = None, encrypted: bool = True, hybrid: bool = True,
              limit: int = gipc.DEFAULT_LIMIT, behind: Callable[[gipc.Session], None] | None = None) -> None:
        """The handshake. behind sends something in the same write as ServerFinish."""
        kem = kem_pair() if hybrid and encrypted else None
        flags = encrypted + 2 * (secret is not None) + 4 * (kem is not None)
        private = ec.generate_private_key(ec.SECP384R1())
        hello = struct.pack(">BBL", 3, flags, limit)
        if encrypted:
            hello += private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        if kem is not None:
            hello += kem.public_key().public_bytes_raw()
        self.sock.sendall(hello)
        answer = self.take(1)
        if answer != b"\0":
            raise ConnectionError(f"refused with {answer[0]}")
        answer += self.take(5)
        self.client_flags = answer[1]
        client_limit = int.from_bytes(answer[2:6], "big")
        finish, secrets = b"\0", None
        if encrypted:
            finish, secrets = self.agree(name, secret, private, kem, hello, answer)
        self.session = gipc.Session(secrets, limit, client_limit)
        if behind is not None:
            behind(self.session)
        self.sock.sendall(finish + self.session.next_output())

    def agree(self, name: bytes, secret: bytes | None, private: ec.EllipticCurvePrivateKey, kem: Any, hello: bytes,
              answer: bytes) -> tuple[bytes, tuple[bytes, bytes]]:
        answer += self.take(97)
        point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), answer[6:])
        z = private.exchange(ec.ECDH(), point)
        if answer[1] & 4:
            answer += self.take(1568)
            z += kem.decapsulate(answer[-1568:])
        schedule = gipc.KeySchedule.derive(name, secret, hello + answer, z)
        if self.take(48) != schedule.client_confirmation():
            self.sock.sendall(b"\6")
            raise ConnectionError("the confirmation does not match")
        return b"\0" + schedule.server_confirmation(), (schedule.client_traffic, schedule.server_traffic)

    def flush(self) -> None:
        while unit := self.session.next_output():
            self.sock.sendall(unit)
        self.events += self.session.events()

    def read(self) -> gipc.Event:
        """The next event."""
        self.flush()
        while not self.events:
            data = self.sock.recv(65536)
            self.session.receive(data) if data else self.session.receive_end()
            self.flush()
        return self.events.pop(0)

    def read_message(self) -> gipc.Message:
        event = self.read()
        assert isinstance(event, gipc.Received), event
        return event.message

    def send(self, kind: int, data: bytes) -> None:
        self.session.send(kind, data)
        self.flush()

    def control(self, data: bytes) -> None:
        """Sends a control frame, whatever it is."""
        self.session._queue.append(gipc.Outgoing(0, data))
        self.flush()

    def until_end(self) -> None:
        """Reads until the client has ended its stream. A reset is an error."""
        while data := self.sock.recv(65536):
            self.session.receive(data)
            self.flush()

    def echo(self) -> None:
        """Sends everything back until the client closes, and confirms."""
        while isinstance(event := self.read(), gipc.Received):
            message = event.message
            with contextlib.suppress(gipc.NotConnectedError):  # the client has closed meanwhile
                if message.is_request:
                    self.session.reply(message.number, message.type, message.data)
                else:
                    self.session.send(message.type, message.data)
        assert isinstance(event, gipc.Ended) and isinstance(event.error, gipc.PeerClosedError), event
        self.until_end()


class Server:
    """Runs a function for each connection in a thread of its own. An error in it is raised at the end."""

    def __init__(self, *handlers: Callable[[Peer], None], network: str = "unix", **options: Any) -> None:
        self.handlers, self.options = handlers, options
        self.directory = tempfile.mkdtemp(prefix="gipc-")
        self.errors: list[BaseException] = []
        self.threads: list[threading.Thread] = []
        self.raw = options.pop("raw", False)
        self.name: str = options.setdefault("name", b"test").decode()
        if network == "tcp":
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        else:
            self.address = os.path.join(self.directory, self.name + ".sock")
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.address)
            self.listener.listen()
        self.config = gipc.Config(self.name, network=network, address=self.address, timeout=8)
        self.thread = threading.Thread(target=self.accept, daemon=True)

    def accept(self) -> None:
        for handler in self.handlers:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(handler, sock), daemon=True)
            thread.start()
            self.threads.append(thread)

    def serve(self, handler: Callable[[Peer], None], sock: socket.socket) -> None:
        with sock:
            try:
                peer = Peer(sock)
                if not self.raw:
                    peer.shake(**self.options)
                handler(peer)
            except BaseException as error:
                self.errors.append(error)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for thread in list(self.threads):
            thread.join(10)
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        shutil.rmtree(self.directory)
        if kind is None and self.errors:
            raise self.errors[0]


def with_options(config: gipc.Config, **options: Any) -> gipc.Config:
    return dataclasses.replace(config, **options)


SECRET = bytes(range(32, 64))
SIZES = (0, 1, 16383, 16384, 65519, 65537, 300000)


class BlockingTest(unittest.TestCase):
    def exchange(self, client: gipc.Client) -> None:
        for size in SIZES:
            data = os.urandom(size)
            client.write(size + 1, data)
            message = client.read(5)
            self.assertEqual((message.type, message.data, message.is_request), (size + 1, data, False))
            self.assertEqual(client.call(7, data, 5).data, data)

    def test_echo(self) -> None:
        for network in ("unix", "tcp"):
            with self.subTest(network), Server(Peer.echo, network=network) as server:
                with gipc.connect(server.config) as client:
                    self.assertTrue(client.encrypted)
                    self.assertEqual(client.hybrid, gipc.find_encapsulate() is not None)
                    self.assertEqual(client.status, gipc.Status.CONNECTED)
                    self.exchange(client)
                self.assertEqual(client.status, gipc.Status.CLOSED)

    def test_plaintext(self) -> None:
        with Server(Peer.echo, encrypted=False) as server:
            with gipc.connect(with_options(server.config, require_encryption=False)) as client:
                self.assertFalse(client.encrypted)
                self.exchange(client)

    def test_secret(self) -> None:
        with Server(Peer.echo, secret=SECRET) as server:
            with gipc.connect(with_options(server.config, secret=SECRET)) as client:
                self.exchange(client)

    def test_classical(self) -> None:
        with Server(Peer.echo, hybrid=False) as server, gipc.connect(server.config) as client:
            self.assertFalse(client.hybrid)
            self.exchange(client)

    def test_client_without_ml_kem(self) -> None:
        """It clears the hybrid bit, and no other."""
        flags: list[int] = []

        def handler(peer: Peer) -> None:
            flags.append(peer.client_flags)
            peer.echo()

        with Server(handler) as server, gipc.Client(server.config, gipc.Sources(encapsulate=None)) as client:
            self.assertFalse(client.hybrid)
            self.exchange(client)
        self.assertEqual(flags, [1])

    def test_found_by_name(self) -> None:
        with Server(Peer.echo) as server, environment(GIPC_SOCKET_DIR=server.directory):
            with gipc.connect(gipc.Config(server.name, timeout=5)) as client:
                self.exchange(client)

    def test_second_directory(self) -> None:
        """A socket that is missing, or that nobody listens at, is skipped."""
        with Server(lambda _: None, raw=True) as server, tempfile.TemporaryDirectory() as other:
            dead = os.path.join(other, "dead.sock")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(dead)
            for first in (dead, os.path.join(other, "missing")):
                with unittest.mock.patch.object(gipc, "socket_paths", lambda _: [first, server.address]):
                    gipc._open_unix(gipc.Config("test")).close()

    def test_other_failure_ends_the_attempt(self) -> None:
        with Server(Peer.echo) as server, unittest.mock.patch.object(
                gipc, "socket_paths", lambda _: [server.address + "/x", server.address]):
            with self.assertRaises(NotADirectoryError):
                gipc._open_unix(gipc.Config("test"))

    def test_server_sends_first(self) -> None:
        def behind(session: gipc.Session) -> None:
            session.send(5, b"early")

        with Server(Peer.echo, behind=behind) as server, gipc.connect(server.config) as client:
            self.assertEqual(client.read(5).data, b"early")

    def test_requests_of_the_server(self) -> None:
        replies: list[gipc.Event] = []

        def handler(peer: Peer) -> None:
            peer.session.request(1, b"one")
            peer.session.request(2, b"two")
            replies.extend((peer.read(), peer.read()))
            peer.echo()

        with Server(handler) as server, gipc.connect(server.config) as client:
            one, two = client.read(5), client.read(5)
            self.assertTrue(one.is_request and two.is_request)
            client.reply(two, b"2", type=9)
            client.reply(one, b"1")
            with self.assertRaises(gipc.ReplyError):
                client.reply(one, b"again")
            client.write(3, b"message")
            with self.assertRaises(gipc.ReplyError):
                client.reply(client.read(5), b"to a message")
        got = [(r.request.data, r.message.type, r.message.data) for r in replies if isinstance(r, gipc.Replied)]
        self.assertEqual(got, [(b"two", 9, b"2"), (b"one", 1, b"1")])

    def test_calls_of_threads(self) -> None:
        """Replies come in another order, and each goes to its caller."""
        def handler(peer: Peer) -> None:
            requests = [peer.read_message() for _ in range(20)]
            for request in reversed(requests):
                peer.session.reply(request.number, request.type, request.data * 2)
            peer.echo()

        results: dict[int, bytes] = {}

        def call(i: int) -> None:
            results[i] = client.call(i, b"%d" % i, 5).data

        with Server(handler) as server, gipc.connect(server.config) as client:
            threads = [threading.Thread(target=call, args=(i,)) for i in range(1, 21)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual(results, {i: b"%d" % i * 2 for i in range(1, 21)})

    def test_refused_sends(self) -> None:
        with Server(Peer.echo, limit=1024) as server, gipc.connect(server.config) as client:
            with self.assertRaises(gipc.TooLargeError):
                client.write(1, bytes(1025))
            for kind in (0, -1, 1 << 31):
                with self.assertRaises(gipc.ReservedTypeError):
                    client.call(kind, b"")
            client.write(1, bytes(1024))
            self.assertEqual(client.read(5).data, bytes(1024))

    def test_call_times_out(self) -> None:
        """The request is given up, its late reply is ignored, and the connection stays usable."""
        def handler(peer: Peer) -> None:
            late = peer.read_message()
            peer.read_message()
            peer.session.reply(late.number, 1, b"late")
            peer.send(2, b"behind")
            peer.echo()

        with Server(handler) as server, gipc.connect(server.config) as client:
            with self.assertRaises(gipc.UnconfirmedError):
                client.call(1, b"", 0.05)
            client.write(1, b"now")
            self.assertEqual(client.read(5).data, b"behind")
            self.assertEqual(client.call(4, b"x", 5).data, b"x")

    def test_read_times_out(self) -> None:
        with Server(Peer.echo) as server, gipc.connect(server.config) as client:
            with self.assertRaises(gipc.TimedOutError):
                client.read(0.02)
            client.write(1, b"after")
            self.assertEqual(client.read(5).data, b"after")

    def test_use_before_and_after(self) -> None:
        with Server(Peer.echo) as server:
            client = gipc.Client(server.config)
            client.close()
            for use in (lambda: client.write(1, b""), lambda: client.read(1), lambda: client.call(1, b"")):
                self.assertRaises(gipc.ClosedError, use)
            client.connect()
            client.write(1, b"kept")
            while not client._client._unread:
                time.sleep(0.005)
            client.close()
            client.close()
            self.assertEqual(client.read().data, b"kept")
            self.assertRaises(gipc.ClosedError, client.read)
            self.assertRaises(gipc.ClosedError, client.write, 1, b"")
            self.assertRaises(gipc.ClosedError, client.connect)

    def test_close_unblocks_a_read(self) -> None:
        failures: list[BaseException] = []

        def read() -> None:
            try:
                client.read()
            except gipc.GipcError as error:
                failures.append(error)

        with Server(Peer.echo) as server, gipc.connect(server.config) as client:
            thread = threading.Thread(target=read)
            thread.start()
            time.sleep(0.05)
            client.close()
            thread.join(5)
        self.assertIsInstance(failures[0], gipc.ClosedError)

    # Closing

    def closing(self, handler: Callable[[Peer], None], sends: bool = True) -> tuple[float, bool]:
        """How long closing takes, and whether it is confirmed."""
        with Server(handler) as server:
            client = gipc.connect(server.config)
            if sends:
                client.write(1, b"x")
            start = time.monotonic()
            try:
                client.close()
                confirmed = True
            except gipc.UndeliveredError:
                confirmed = False
            self.assertEqual(client.status, gipc.Status.CLOSED)
            return time.monotonic() - start, confirmed

    def test_close_is_confirmed(self) -> None:
        seconds, confirmed = self.closing(Peer.echo)
        self.assertTrue(confirmed)
        self.assertLess(seconds, 1)

    def test_close_ack_of_1(self) -> None:
        def handler(peer: Peer) -> None:
            peer.session._discarded = True
            peer.echo()

        self.assertFalse(self.closing(handler)[1])

    def test_close_without_ack(self) -> None:
        def handler(peer: Peer) -> None:
            while peer.sock.recv(1000):
                pass

        with unittest.mock.patch.object(gipc, "CLOSE_SECONDS", 0.3):
            seconds, confirmed = self.closing(handler)
        self.assertFalse(confirmed)
        self.assertGreater(seconds, 0.29)
        self.assertLess(seconds, 1.5)

    def test_close_with_nothing_sent(self) -> None:
        def handler(peer: Peer) -> None:
            while peer.sock.recv(1000):
                pass

        with unittest.mock.patch.object(gipc, "IDLE_CLOSE_SECONDS", 0.2):
            seconds, confirmed = self.closing(handler, sends=False)
        self.assertTrue(confirmed)
        self.assertGreater(seconds, 0.19)
        self.assertLess(seconds, 1.4)

    def test_close_while_the_server_does_not_read(self) -> None:
        """Closing ends, though a message is stuck."""
        done = threading.Event()

        def handler(peer: Peer) -> None:
            done.wait(8)

        with Server(handler) as server, unittest.mock.patch.object(gipc, "CLOSE_SECONDS", 0.3):
            client = gipc.connect(server.config)
            with self.assertRaises(gipc.UnconfirmedError):
                client.write(1, bytes(3000000), timeout=0.1)
            start = time.monotonic()
            self.assertRaises(gipc.UndeliveredError, client.close)
            self.assertLess(time.monotonic() - start, 2)
            done.set()

    def test_server_closes(self) -> None:
        """The client acknowledges, and ends its stream without a reset."""
        acknowledged: list[bool] = []

        def handler(peer: Peer) -> None:
            peer.send(1, b"last")
            peer.session.close()
            peer.flush()
            peer.until_end()
            acknowledged.append(peer.session.delivered())

        with Server(handler) as server, gipc.connect(server.config) as client:
            self.assertEqual(client.read(5).data, b"last")
            for _ in range(2):
                self.assertRaises(gipc.PeerClosedError, client.read, 5)
            self.assertRaises(gipc.NotConnectedError, client.write, 1, b"")
        self.assertEqual(acknowledged, [True])

    def test_server_closes_and_does_not_acknowledge(self) -> None:
        """The client ends its stream behind its close-ack, and does not wait for that of the server [G-2]."""
        seconds: list[float] = []

        def handler(peer: Peer) -> None:
            peer.control(b"\3\0")
            start = time.monotonic()
            while peer.sock.recv(1000):
                pass
            seconds.append(time.monotonic() - start)

        with Server(handler) as server, gipc.connect(server.config) as client:
            self.assertRaises(gipc.PeerClosedError, client.read, 5)
        self.assertLess(seconds[0], 1)

    def test_end_is_no_reset(self) -> None:
        """After a fault the client reads on, so the server does not lose what was sent to it [G-11]."""
        def handler(peer: Peer) -> None:
            peer.sock.sendall(b"\0\0\0\3")
            for _ in range(5):
                peer.sock.sendall(bytes(100000))
            assert peer.sock.recv(1) == b""

        self.assertEqual(outcome(self.ending(handler)), "frame malformed")

    def test_own_close_discards(self) -> None:
        """A message that arrives after the close is discarded, and the close-ack is 1."""
        delivered: list[bool] = []

        def late(peer: Peer) -> None:
            data = b""
            while len(data) < 42:  # the record of the close
                data += peer.sock.recv(1000)
            peer.send(1, b"late")
            peer.session.receive(data)
            peer.flush()
            peer.until_end()
            delivered.append(peer.session._receiver.ack == 0)

        with Server(late) as server, gipc.connect(server.config) as client:
            client.close()
            for _ in range(3):
                self.assertRaises(gipc.ClosedError, client.read)
        self.assertEqual(delivered, [False])

    # Ends of a connection

    def ending(self, handler: Callable[[Peer], None], **options: Any) -> gipc.GipcError:
        """What reading ends with."""
        with Server(handler, encrypted=False) as server:
            config = with_options(server.config, require_encryption=False, **options)
            with gipc.connect(config) as client, self.assertRaises(gipc.GipcError) as raised:
                while True:
                    client.read(5)
        return raised.exception

    def test_ends(self) -> None:
        cases = {
            b"": ("frame truncated-boundary", True), b"\0\0\0\x05\0": ("frame truncated-inside", True),
            b"\0\0\0\3": ("frame malformed", False), b"\0\0\0\6\0\0\0\0\x10\0": ("control malformed", False),
        }
        for data, (expect, end) in cases.items():
            def handler(peer: Peer) -> None:
                peer.sock.sendall(data)
                if end:
                    peer.sock.shutdown(socket.SHUT_WR)
                assert peer.sock.recv(1) == b"", "the client must write nothing"

            with self.subTest(expect):
                self.assertEqual(outcome(self.ending(handler)), expect)

    def test_not_authentic(self) -> None:
        def handler(peer: Peer) -> None:
            peer.sock.sendall(b"\0\0\0\x24" + bytes(36))
            assert peer.sock.recv(1) == b""

        with Server(handler) as server, gipc.connect(server.config) as client:
            self.assertRaises(gipc.NotAuthenticError, client.read, 5)

    def test_open_call_fails_at_the_end(self) -> None:
        def handler(peer: Peer) -> None:
            peer.read_message()
            peer.sock.shutdown(socket.SHUT_WR)
            peer.sock.recv(1)

        with Server(handler) as server, gipc.connect(server.config) as client:
            self.assertRaises(gipc.UnconfirmedError, client.call, 1, b"", 5)
            self.assertRaises(gipc.TruncatedError, client.read, 5)

    def test_failed_write(self) -> None:
        """The messages that have arrived are delivered first. The end is a loss."""
        def handler(peer: Peer) -> None:
            peer.sock.shutdown(socket.SHUT_RD)
            peer.send(1, b"arrived")
            time.sleep(0.2)

        with Server(handler) as server, gipc.connect(server.config) as client:
            time.sleep(0.05)
            with self.assertRaises(gipc.GipcError):
                for _ in range(100):
                    client.write(1, bytes(10000))
            self.assertEqual(client.read(5).data, b"arrived")
            self.assertRaises(gipc.LostError, client.read, 5)

    def test_heartbeat(self) -> None:
        pings: list[bytes] = []

        def handler(peer: Peer) -> None:
            while data := peer.sock.recv(1000):
                pings.append(data)

        error = self.ending(handler, heartbeat=0.1)
        self.assertIsInstance(error, gipc.LostError)
        self.assertEqual([len(ping) for ping in pings], [17])
        self.assertEqual(pings[0][:9], bytes.fromhex("0000000d 00000000 01"))

    def test_heartbeat_of_a_live_server(self) -> None:
        with Server(Peer.echo) as server, gipc.connect(with_options(server.config, heartbeat=0.05)) as client:
            time.sleep(0.4)
            client.write(1, b"alive")
            self.assertEqual(client.read(5).data, b"alive")

    def test_pong(self) -> None:
        def handler(peer: Peer) -> None:
            for data in (b"12345678", b"87654321"):
                peer.sock.sendall(b"\0\0\0\x0d\0\0\0\0\1" + data)
                assert peer.take(17) == b"\0\0\0\x0d\0\0\0\0\2" + data
            peer.send(1, b"done")
            peer.echo()

        with Server(handler, encrypted=False) as server:
            with gipc.connect(with_options(server.config, require_encryption=False)) as client:
                self.assertEqual(client.read(5).data, b"done")

    # Backpressure

    def test_unread_messages_stop_reading(self) -> None:
        """The server is blocked, and gets pings. Then everything arrives, in order."""
        pings: list[int] = []
        count = 2000

        def handler(peer: Peer) -> None:
            def watch() -> None:
                while len(pings) < 2:
                    pings.append(len(peer.sock.recv(17)))

            thread = threading.Thread(target=watch)
            thread.start()
            for i in range(count):
                peer.send(i + 1, bytes(1000))
            thread.join(5)
            peer.echo()

        with Server(handler, encrypted=False) as server, unittest.mock.patch.object(gipc, "STOPPED_PING_SECONDS", 0.1):
            with gipc.connect(with_options(server.config, require_encryption=False)) as client:
                time.sleep(0.5)
                self.assertLess(client._client._unread, 300000)
                self.assertEqual([client.read(5).type for _ in range(count)], list(range(1, count + 1)))
        self.assertEqual(pings, [17, 17])

    def test_empty_messages_count(self) -> None:
        def handler(peer: Peer) -> None:
            with contextlib.suppress(OSError):
                for _ in range(2000):
                    peer.sock.sendall(b"\0\0\0\4\0\0\0\1" * 1000)

        with Server(handler, encrypted=False) as server:
            with gipc.connect(with_options(server.config, require_encryption=False)) as client:
                time.sleep(0.3)
                self.assertLess(client._client._inbox.qsize(), 20000)

    def test_call_behind_unread_messages_fails(self) -> None:
        def handler(peer: Peer) -> None:
            peer.read_message()
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    peer.send(1, bytes(1000))

        with Server(handler) as server, unittest.mock.patch.object(gipc, "STOPPED_SECONDS", 0.3):
            client = gipc.connect(server.config)
            with self.assertRaisesRegex(gipc.UnconfirmedError, "unread"):
                client.call(1, b"", 5)
            with contextlib.suppress(gipc.UndeliveredError):
                client.close()

    # Connecting

    def failing(self, handler: Callable[[Peer], None], **options: Any) -> gipc.GipcError:
        with Server(handler, raw=True) as server, self.assertRaises(gipc.GipcError) as raised:
            gipc.connect(with_options(server.config, timeout=0, **options))
        return raised.exception

    def test_wrong_secret(self) -> None:
        def handler(peer: Peer) -> None:
            with contextlib.suppress(ConnectionError):
                peer.shake(b"test", SECRET)

        error = self.failing(handler, secret=bytes(31) + b"1")
        self.assertEqual(outcome(error), "handshake refused 6")

    def test_refuses_with_a_reason(self) -> None:
        cases: list[tuple[bytes, dict[str, Any], int]] = [
            (b"\2", {}, 1), (b"\3\0", {}, 2), (b"\3\3", {}, 4), (b"\3\1", {"secret": SECRET}, 5), (b"\3\x09", {}, 9),
            (b"\3\4", {"require_encryption": False}, 9)]
        for data, options, expected in cases:
            def handler(peer: Peer) -> None:
                peer.sock.sendall(data)
                assert peer.sock.recv(10) == bytes([expected])
                assert peer.sock.recv(10) == b""

            with self.subTest(expected):
                self.assertEqual(outcome(self.failing(handler, **options)), f"handshake refuse {expected}")

    def test_reason_is_read_after_a_failed_write(self) -> None:
        for finish, expected in ((b"\6", "handshake refused 6"), (b"\0", "handshake truncated")):
            def handler(peer: Peer) -> None:
                peer.sock.shutdown(socket.SHUT_RD)
                peer.sock.sendall(bytes.fromhex("030000300000"))
                time.sleep(0.1)
                peer.sock.sendall(finish)

            self.assertEqual(outcome(self.failing(handler, require_encryption=False)), expected)

    def test_silent_server(self) -> None:
        for data in (b"", bytes.fromhex("030000300000")):
            def handler(peer: Peer) -> None:
                peer.sock.sendall(data)
                while peer.sock.recv(100):
                    pass

            start = time.monotonic()
            error = self.failing(handler, handshake_timeout=0.2, require_encryption=False)
            self.assertIsInstance(error, gipc.HandshakeTimeoutError)
            self.assertLess(time.monotonic() - start, 3)

    def test_no_server(self) -> None:
        start = time.monotonic()
        with self.assertRaises(gipc.ConnectTimeoutError) as raised:
            gipc.connect(gipc.Config("x", address="/nonexistent/x.sock", timeout=0.2))
        self.assertLess(time.monotonic() - start, 2)
        self.assertIn("/nonexistent/x.sock", str(raised.exception))

    def test_tries_again_until_admitted(self) -> None:
        """Reason 7, a truncated handshake, and then success."""
        def full(peer: Peer) -> None:
            peer.sock.sendall(b"\0\7")

        def truncated(peer: Peer) -> None:
            peer.sock.sendall(b"\3")

        def admit(peer: Peer) -> None:
            peer.shake(b"test")
            peer.echo()

        with Server(full, truncated, admit, raw=True) as server, gipc.connect(server.config) as client:
            client.write(1, b"in")

    def test_name_too_long_for_a_path(self) -> None:
        with tempfile.TemporaryDirectory() as directory, self.assertRaises(gipc.GipcError):
            gipc.connect(gipc.Config("x", address=os.path.join(directory, "n" * 200), timeout=0))

    # Reconnecting

    def test_reconnects(self) -> None:
        """After a loss, and after a close. A request of the old connection has no reply any more."""
        def lose(peer: Peer) -> None:
            peer.session.request(1, b"old")
            peer.flush()
            peer.sock.shutdown(socket.SHUT_WR)
            peer.sock.recv(1)

        def close(peer: Peer) -> None:
            peer.session.close()
            peer.flush()
            peer.until_end()

        with Server(lose, close, Peer.echo) as server:
            with gipc.connect(with_options(server.config, reconnect=True)) as client:
                request = client.read(5)
                statuses = [client.read(5) for _ in range(4)]
                with self.assertRaises(gipc.NotConnectedError):
                    client.reply(request, b"late")
                client.write(1, b"third")
                third = client.read(5)
        words = [(m.status.value if m.status else "", type(m.error).__name__) for m in statuses]
        self.assertEqual(words, [("Reconnecting", "TruncatedError"), ("Connected", "NoneType"),
                                 ("Reconnecting", "NoneType"), ("Connected", "NoneType")])
        self.assertEqual((third.data, third.connection), (b"third", 3))

    def test_reconnecting_times_out(self) -> None:
        def lose(peer: Peer) -> None:
            pass

        with Server(lose) as server:
            client = gipc.connect(with_options(server.config, reconnect=True, timeout=0.3))
            server.listener.close()
            os.unlink(server.address)
            statuses = [client.read(5).status for _ in range(2)]
            self.assertEqual(statuses, [gipc.Status.RECONNECTING, gipc.Status.TIMEOUT])
            self.assertRaises(gipc.ConnectTimeoutError, client.read, 5)
            self.assertRaises(gipc.NotConnectedError, client.write, 1, b"")
            client.close()

    def test_pauses_grow_to_the_cap(self) -> None:
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 12:
                raise KeyboardInterrupt

        client = gipc.AsyncClient(gipc.Config("x", address="/nonexistent", timeout=None, retry_cap=0.2))
        with unittest.mock.patch("asyncio.sleep", sleep), self.assertRaises(KeyboardInterrupt):
            asyncio.run(client.connect())
        for i, pause in enumerate(pauses):
            most = min(0.001 * 2 ** i, 0.2)
            self.assertTrue(most / 2 <= pause <= most, (i, pause))


@contextlib.contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Sets variables of the environment, or removes them."""
    with unittest.mock.patch.dict(os.environ):
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        yield


class AddressTest(unittest.TestCase):
    def test_socket_paths(self) -> None:
        own = f"/tmp/gipc-{os.geteuid()}"
        with environment(GIPC_SOCKET_DIR=None):
            for private, paths in ((True, [f"{own}/n.sock", "/tmp/n.sock"]), (False, ["/tmp/n.sock"])):
                with unittest.mock.patch.object(gipc, "_is_private", lambda path: path == own and private):
                    self.assertEqual(gipc.socket_paths(b"n"), paths)
        with environment(GIPC_SOCKET_DIR="/run/x"):
            self.assertEqual(gipc.socket_paths(b"n"), ["/run/x/n.sock"])

    def test_names_that_are_no_file(self) -> None:
        for name in (b"a/b", b"a\\b", b"a\0b", b".", b".."):
            self.assertRaises(gipc.ConfigError, gipc.socket_paths, name)

    def test_private_directory(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "d")
            self.assertFalse(gipc._is_private(path))
            os.mkdir(path, 0o700)
            self.assertTrue(gipc._is_private(path))
            os.symlink(path, path + "-link")
            self.assertFalse(gipc._is_private(path + "-link"))
            for mode in (0o750, 0o1700):
                os.chmod(path, mode)
                self.assertFalse(gipc._is_private(path))
            os.chmod(path, 0o700)
            with unittest.mock.patch("os.geteuid", lambda: os.getuid() + 1):
                self.assertFalse(gipc._is_private(path))

    def test_tcp_address(self) -> None:
        with environment(GIPC_NETWORK_HOST=None, GIPC_NETWORK_PORT=None):
            self.assertEqual(gipc.tcp_address(None), ("127.0.0.1", 8100))
        with environment(GIPC_NETWORK_HOST="h", GIPC_NETWORK_PORT="9"):
            self.assertEqual(gipc.tcp_address(None), ("h", 9))
            self.assertEqual(gipc.tcp_address("[::1]:80"), ("::1", 80))
        for address in ("localhost", ":80", "h:x", "h:65536"):
            self.assertRaises(gipc.ConfigError, gipc.tcp_address, address)

    @unittest.skipUnless(sys.platform == "linux", "needs SO_PEERCRED")
    def test_server_of_another_user(self) -> None:
        def server_of(user: int) -> Any:
            sock = unittest.mock.Mock()
            sock.getsockopt.return_value = struct.pack("3i", 1, user, 1)
            return sock

        for user in (0, os.geteuid()):
            gipc._check_server_user(server_of(user), "/x", 0)
        self.assertRaises(gipc.UntrustedServerError, gipc._check_server_user, server_of(os.geteuid() + 1), "/x", 0)
        with Server(lambda _: None, lambda _: None, lambda _: None, raw=True) as server, unittest.mock.patch.object(
                gipc, "_check_server_user", side_effect=gipc.UntrustedServerError("x")):
            self.assertRaises(gipc.UntrustedServerError, gipc.connect, server.config)
            gipc._open_unix(with_options(server.config, allow_any_user=True)).close()
            gipc._open_unix(with_options(server.config, secret=SECRET)).close()

    def test_configurations(self) -> None:
        cases: list[dict[str, Any]] = [
            {"network": "udp"}, {"limit": 1023}, {"limit": (1 << 30) + 1}, {"handshake_timeout": 31},
            {"handshake_timeout": 0}, {"timeout": -1}, {"retry_cap": 0}, {"heartbeat": -1}, {"secret": b""},
            {"name": "\ud800"}]
        for case in cases:
            options: dict[str, Any] = {"name": "x", **case}
            with self.subTest(options), self.assertRaises(gipc.ConfigError):
                gipc.Config(**options)
        self.assertNotIn("secret", repr(gipc.Config("x", secret=SECRET)))



class SessionTest(unittest.TestCase):
    """Rules of the core that no vector shows, because they concern what waits to be written, memory or chance."""

    def session(self, encrypted: bool = False, limit: int = gipc.DEFAULT_LIMIT) -> gipc.Session:
        return gipc.Session((SECRET, SECRET) if encrypted else None, limit, limit)

    def test_memory_follows_what_arrives(self) -> None:
        """[F-5], for a frame, a record of data that is due, and a hello."""
        plain, encrypted = self.session(limit=gipc.MOST_LIMIT), self.session(True, gipc.MOST_LIMIT)
        encrypted.receive(gipc.Direction(SECRET).seal(gipc.make_head(1, None, gipc.MOST_LIMIT), bytes(12)))
        tracemalloc.start()
        plain.receive(struct.pack(">LL", gipc.MOST_LIMIT + 4, 1) + b"x")
        encrypted.receive(struct.pack(">L", gipc.MOST_LIMIT + 28) + b"x")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        self.assertLess(most, 100000)
        self.assertIsNone(plain.fault or encrypted.fault)

    def test_one_pong_is_pending(self) -> None:
        """A newer ping replaces its bytes [C-5], and the pong precedes messages that wait [C-4]."""
        session = self.session()
        session.send(1, b"waits")
        for i in range(1000):
            session.receive(b"\0\0\0\x0d\0\0\0\0\1" + struct.pack(">Q", i))
        frames = split_frames(session.next_output())
        self.assertEqual(frames, [(0, None, b"\2" + struct.pack(">Q", 999)), (1, None, b"waits")])

    def test_pong_is_not_between_head_and_data(self) -> None:
        session, opener = self.session(True), Opener(SECRET)
        session.send(1, bytes(20000))
        frames = opener.frames(session.next_output())
        session.receive(gipc.Direction(SECRET).seal(b"\0\0\0\x0d\0\0\0\0\1" + bytes(8), bytes(12)))
        frames += opener.frames(session.next_output()) + opener.frames(session.next_output())
        self.assertEqual(frames, [(1, None, bytes(20000)), (0, None, b"\2" + bytes(8))])

    def test_one_ping_is_pending(self) -> None:
        session = self.session()
        session.ping()
        session.ping()
        self.assertEqual(len(session.next_output()), 17)

    def test_records_hold_at_most_65536_bytes(self) -> None:
        session, opener = self.session(True), Opener(SECRET)
        for size in (16383, 16383, 16383, 16383, 16384, 0):
            session.send(1, bytes(size))
        frames = []
        while unit := session.next_output():
            frames += opener.frames(unit)
        self.assertEqual([len(data) for _, _, data in frames], [16383, 16383, 16383, 16383, 16384, 0])

    def test_nothing_waits_for_a_close_that_was_sent(self) -> None:
        session = self.session()
        session.close()
        self.assertRaises(gipc.ClosedError, session.send, 1, b"")
        session.ping()
        session.receive(b"\0\0\0\x0d\0\0\0\0\1" + bytes(8))
        self.assertEqual(split_frames(session.next_output()), [(0, None, b"\3\0")])

    def test_byte_of_a_close(self) -> None:
        """1 is shutting down; every other one is read as 0 [G-8]."""
        for byte, expected in ((0, False), (1, True), (2, False), (255, False)):
            session = self.session()
            session.receive(b"\0\0\0\6\0\0\0\0\3" + bytes([byte]))
            (event,) = session.events()
            assert isinstance(event, gipc.Ended) and isinstance(event.error, gipc.PeerClosedError)
            self.assertEqual(event.error.shutting_down, expected)

    def test_own_close_when_shutting_down(self) -> None:
        session = self.session()
        session.close(shutting_down=True)
        self.assertEqual(split_frames(session.next_output()), [(0, None, b"\3\1")])

    def test_request_that_was_not_written(self) -> None:
        """It fails as not sent [Q-6]. The one that was written fails as unknown."""
        for end in ("close", "fault"):
            session = self.session()
            written = session.request(1, b"")
            session.next_output()
            waiting = session.request(1, b"")
            session.send(2, b"message")
            session.receive(b"\0\0\0\6\0\0\0\0\3\0" if end == "close" else b"\0\0\0\3")
            failed = {e.request: type(e.error) for e in session.events() if isinstance(e, gipc.Failed)}
            self.assertEqual(failed, {written: gipc.UnconfirmedError, waiting: gipc.NotConnectedError})
            expected = [(2, None, b"message"), (0, None, b"\3\0"), (0, None, b"\4\0")] if end == "close" else []
            self.assertEqual(split_frames(session.next_output()), expected)
            self.assertRaises(gipc.NotConnectedError, session.send, 1, b"")

    def test_request_that_is_taken_back(self) -> None:
        """It gives its number back [Q-1]."""
        session = self.session()
        first, second = session.request(1, b"a"), session.request(1, b"b")
        session.give_up(first)
        self.assertEqual(split_frames(session.next_output()), [(1, 1, b"b")])
        self.assertEqual(second.number, 1)

    def test_last_sequence_number(self) -> None:
        """A sender that has no number left ends the connection without a close [R-4]."""
        session = self.session(True)
        assert session._direction is not None
        session._direction.sequence = (1 << 64) - 2
        session.send(1, b"last")
        self.assertTrue(session.next_output())
        session.send(1, b"none")
        self.assertEqual(session.next_output(), b"")
        (event,) = session.events()
        assert isinstance(event, gipc.Ended)
        self.assertIsInstance(event.error, gipc.LostError)
        self.assertTrue(session.output_over)

    def test_malformed_points_do_not_reach_the_library(self) -> None:
        """The form and the range are checked here [H-3], whatever the library accepts."""
        prime = gipc._P384_PRIME.to_bytes(48, "big")
        good = bytes(48)
        points = [b"\2" + good * 2, b"\6" + good * 2, b"\4" + good, b"\4" + good * 2 + b"x", b"\4" + prime + good,
                  b"\4" + good + prime, b""]
        with unittest.mock.patch.object(ec.EllipticCurvePublicKey, "from_encoded_point") as accepts:
            self.assertEqual([gipc.parse_point(point) for point in points], [None] * len(points))
            self.assertIsNotNone(gipc.parse_point(b"\4" + good * 2))
        accepts.assert_called_once()

    def test_nonces_are_random(self) -> None:
        session = self.session(True)
        nonces = set()
        for _ in range(100):
            session.send(1, b"")
            nonces.add(session.next_output()[4:16])
        self.assertEqual(len(nonces), 100)

    def test_keys_are_new(self) -> None:
        """[H-4], [H-22]"""
        hello = Vector(VECTORS / "handshake_hybrid.txt").data("server_hello")
        hellos = []
        for _ in range(2):
            shake = gipc.Handshake(gipc.Config("x"))
            shake.receive(hello)
            hellos.append(shake.output())
        points, ciphertexts = {h[6:103] for h in hellos}, {h[103:-48] for h in hellos}
        self.assertEqual(len(points), 2)
        self.assertEqual(len(ciphertexts), 1 if gipc.find_encapsulate() is None else 2)

    def test_initiator_keeps_its_sending_half_until_the_close_ack(self) -> None:
        session = self.session()
        session.send(1, b"x")
        session.close()
        session.next_output()
        self.assertFalse(session.output_over)
        session.receive(b"\0\0\0\6\0\0\0\0\3\0")
        session.next_output()
        self.assertFalse(session.output_over)
        session.receive(b"\0\0\0\6\0\0\0\0\4\0")
        self.assertTrue(session.output_over and session.input_over and session.delivered())


class AsyncTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        asyncio.get_running_loop().slow_callback_duration = 60  # a slow machine is no reason to print

    async def test_echo(self) -> None:
        with Server(Peer.echo, secret=SECRET) as server:
            async with gipc.AsyncClient(with_options(server.config, secret=SECRET)) as client:
                for size in SIZES:
                    data = os.urandom(size)
                    await client.write(9, data)
                    self.assertEqual((await client.read(5)).data, data)
            self.assertEqual(client.status, gipc.Status.CLOSED)

    async def test_writers_keep_their_order(self) -> None:
        with Server(Peer.echo, network="tcp") as server:
            async with await gipc.connect_async(server.config) as client:
                await asyncio.gather(*(client.write(i, bytes(i % 7 * 5000)) for i in range(1, 101)))
                self.assertEqual([(await client.read(5)).type for _ in range(100)], list(range(1, 101)))

    async def test_calls(self) -> None:
        with Server(Peer.echo) as server:
            async with gipc.AsyncClient(server.config) as client:
                replies = await asyncio.gather(*(client.call(1, b"%d" % i, 5) for i in range(200)))
        self.assertEqual([r.data for r in replies], [b"%d" % i for i in range(200)])

    async def test_cancelled_call(self) -> None:
        with Server(Peer.echo) as server:
            async with gipc.AsyncClient(server.config) as client:
                task = asyncio.create_task(client.call(1, b"first"))
                await asyncio.sleep(0)
                task.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await task
                self.assertEqual((await client.call(1, b"second", 5)).data, b"second")

    async def test_cancelled_read_loses_nothing(self) -> None:
        with Server(Peer.echo) as server:
            async with gipc.AsyncClient(server.config) as client:
                for i in range(50):
                    task = asyncio.create_task(client.read())
                    await client.write(i + 1, b"")
                    await asyncio.sleep(0.001 * (i % 3))
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        self.assertEqual((await task).type, i + 1)
                        continue
                    self.assertEqual((await client.read(5)).type, i + 1)

    async def test_reconnects(self) -> None:
        def lose(peer: Peer) -> None:
            peer.read_message()

        with Server(lose, Peer.echo) as server:
            async with gipc.AsyncClient(with_options(server.config, reconnect=True)) as client:
                with self.assertRaises(gipc.UnconfirmedError):
                    await client.call(1, b"", 5)
                self.assertRaises(gipc.NotConnectedError, client._live_link)
                self.assertEqual((await client.read(5)).status, gipc.Status.RECONNECTING)
                self.assertEqual((await client.read(5)).status, gipc.Status.CONNECTED)
                self.assertEqual((await client.call(1, b"again", 5)).data, b"again")

    async def test_close_while_reconnecting(self) -> None:
        def lose(peer: Peer) -> None:
            pass

        with Server(lose) as server:
            async with gipc.AsyncClient(with_options(server.config, reconnect=True)) as client:
                self.assertEqual((await client.read(5)).status, gipc.Status.RECONNECTING)
            with self.assertRaises(gipc.ClosedError):
                await client.read()

    async def test_an_error_in_the_body_is_kept(self) -> None:
        def discard(peer: Peer) -> None:
            peer.session._discarded = True
            peer.echo()

        with Server(discard) as server, self.assertRaises(ZeroDivisionError):
            async with gipc.AsyncClient(server.config) as client:
                await client.write(1, b"")
                raise ZeroDivisionError

    async def test_nothing_is_left(self) -> None:
        with Server(Peer.echo) as server:
            async with gipc.AsyncClient(server.config) as client:
                await client.write(1, b"")
        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})


def readme_example() -> str:
    """The first block of Python in the README."""
    match = re.search("```python\n(.*?)```", (HERE / "README.md").read_text("utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def run_example(directory: str) -> str:
    """Runs it in a process of its own. Returns what it prints."""
    variables = {**os.environ, "GIPC_SOCKET_DIR": directory, "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", readme_example()], env=variables, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


class ReadmeTest(unittest.TestCase):
    def test_example(self) -> None:
        def handler(peer: Peer) -> None:
            message = peer.read_message()
            assert (message.type, message.data) == (1, b"hello, server")
            peer.send(2, b"hello, client")
            peer.echo()

        with Server(handler, name=b"hello") as server:
            self.assertEqual(run_example(server.directory), "of type 2: hello, client\n")

    def test_length(self) -> None:
        self.assertLessEqual(len(readme_example().splitlines()), 10)


@unittest.skipUnless(shutil.which("go"), "go is not in PATH, so the Go library cannot be run")
@unittest.skipUnless((ROOT / "example" / "simple").is_dir(), "the examples of the Go library are not here")
class GoTest(unittest.TestCase):
    """The examples of the Go library are the server."""

    directory: tempfile.TemporaryDirectory[str]

    @classmethod
    def setUpClass(cls) -> None:
        cls.directory = tempfile.TemporaryDirectory(prefix="gipc-")
        cls.addClassCleanup(cls.directory.cleanup)
        programs = ["./example/simple", "./example/hub"]
        built = subprocess.run(["go", "build", "-o", cls.directory.name + "/", *programs], cwd=ROOT, capture_output=True, text=True)
        if built.returncode != 0:
            raise unittest.SkipTest("the examples of the Go library cannot be built: " + built.stderr)

    @contextlib.contextmanager
    def program(self, *command: str, **variables: str) -> Iterator[None]:
        """Runs a program until the end of the block, when it is interrupted and must end with 0."""
        path = os.path.join(self.directory.name, command[0])
        with environment(GIPC_SOCKET_DIR=self.directory.name), subprocess.Popen(
                [path, *command[1:]], env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                yield
                process.send_signal(2)
                output, _ = process.communicate(timeout=10)
                self.assertEqual(process.returncode, 0, output)
            finally:
                process.kill()

    def test_greeting(self) -> None:
        with self.program("simple", "-server", "-name", "hello"):
            with gipc.connect(gipc.Config("hello")) as client:
                client.write(1, b"hello, server")
                message = client.read(5)
            self.assertEqual((message.type, message.data), (2, b"hello, client"))
            self.assertEqual(client.hybrid, gipc.find_encapsulate() is not None)

    def test_classical(self) -> None:
        with self.program("simple", "-server", "-name", "classical"):
            with gipc.Client(gipc.Config("classical"), gipc.Sources(encapsulate=None)) as client:
                client.write(1, b"hello, server")
                self.assertEqual(client.read(5).data, b"hello, client")
                self.assertTrue(client.encrypted and not client.hybrid)

    def test_readme(self) -> None:
        with self.program("simple", "-server", "-name", "hello"):
            self.assertEqual(run_example(self.directory.name), "of type 2: hello, client\n")

    def test_secret_over_tcp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = "127.0.0.1:%d" % free.getsockname()[1]
        config = gipc.Config("hub", network="tcp", address=address, secret=SECRET, timeout=10)
        with self.program("hub", "-serve", "-network", "tcp", "-address", address, HUB_SECRET=SECRET.decode("ascii")):
            with gipc.connect(config) as client:
                client.write(1, b"Ada")
                self.assertIn(b"1", client.read(5).data)
                self.assertIn(b"Ada", client.read(5).data)
            for secret, expected in ((bytes(31) + b"1", "handshake refused 6"), (None, "handshake refuse 4")):
                with self.assertRaises(gipc.RefusedError) as raised:
                    gipc.connect(with_options(config, secret=secret))
                self.assertEqual(outcome(raised.exception), expected)


if __name__ == "__main__":
    unittest.main()
