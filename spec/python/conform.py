"""The program that "gipc conform" starts to judge gipc.py: see CONFORM.md of that command.

    gipc conform -- python3 spec/python/conform.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import gipc

CONFIRMED, OTHER, REFUSED, REFUSES, UNPROVEN, HANDSHAKE_TRUNCATED = 0, 1, 10, 11, 12, 13
CLOSED, BOUNDARY, INSIDE, MALFORMED, NOT_AUTHENTIC, UNDELIVERED = 20, 21, 22, 23, 24, 30
CLOSE, CALL, CALL_BRIEFLY, SEND, TOO_LARGE, CLOSE_AND_CONNECT, NOTHING = range(1000, 1007)
UNANSWERED = 1010


def say(line: str) -> None:
    print(line, flush=True)


def configuration() -> gipc.Config:
    """What the environment says."""
    env = os.environ
    secret = None
    if "GIPC_CONFORM_SECRET_FILE" in env:
        with open(env["GIPC_CONFORM_SECRET_FILE"], "rb") as file:
            secret = file.read()
    reconnect = env.get("GIPC_CONFORM_RECONNECT") == "1"
    return gipc.Config(os.fsencode(env["GIPC_CONFORM_NAME"]), network=env["GIPC_CONFORM_NETWORK"],
                       address=env["GIPC_CONFORM_ADDRESS"], secret=secret, limit=int(env["GIPC_CONFORM_LIMIT"]),
                       require_encryption=env["GIPC_CONFORM_ENCRYPTION"] == "required", reconnect=reconnect,
                       timeout=None if reconnect else 0)


def exit_code(error: gipc.GipcError) -> int:
    """How a connection, or an attempt to connect, has ended."""
    if isinstance(error, gipc.RefusedError):
        return REFUSED if error.by_server else REFUSES
    if isinstance(error, gipc.TruncatedError):
        return INSIDE if error.inside else BOUNDARY
    codes: dict[type[gipc.GipcError], int] = {
        gipc.UnprovenError: UNPROVEN, gipc.HandshakeTruncatedError: HANDSHAKE_TRUNCATED, gipc.PeerClosedError: CLOSED,
        gipc.MalformedError: MALFORMED, gipc.NotAuthenticError: NOT_AUTHENTIC, gipc.UndeliveredError: UNDELIVERED,
    }
    return codes.get(type(error), OTHER)


class Program:
    """Obeys the messages of the server.

    A task of its own sends, in order, so that reading goes on while the server does not read: both sides may
    send at the same time.
    """

    def __init__(self) -> None:
        self.config = configuration()
        rekey_at = int(os.environ.get("GIPC_CONFORM_REKEY_AT", gipc.REKEY_AT))
        self.sources = gipc.Sources(rekey_at=rekey_at)
        self.client = gipc.AsyncClient(self.config, self.sources)
        self.tasks: set[asyncio.Task[None]] = set()
        self.outbox: asyncio.Queue[Callable[[], Coroutine[Any, Any, None]]] = asyncio.Queue()
        self.start(self.send_all())

    async def run(self) -> int:
        try:
            await self.connect()
            while True:
                message = await self.client.read()
                if message.status is not None:
                    if message.status is gipc.Status.CONNECTED:
                        say("connected")
                elif await self.obey(message):
                    return CONFIRMED
        except gipc.GipcError as error:
            print(error, file=sys.stderr)
            with contextlib.suppress(gipc.GipcError):
                await self.client.close()
            return exit_code(error)

    async def connect(self) -> None:
        while True:
            self.client = gipc.AsyncClient(self.config, self.sources)
            try:
                await self.client.connect()
                say("connected")
                return
            except gipc.GipcError:
                if not self.config.reconnect:
                    raise
            await asyncio.sleep(0.05)

    async def obey(self, message: gipc.Message) -> bool:
        """Does what a message says. Returns whether it was to close, and closing is confirmed."""
        say(f"{'request' if message.is_request else 'message'} {message.type} {len(message.data)}")
        if message.is_request:
            if message.type != UNANSWERED:
                self.send_later(lambda: self.client.reply(message, message.data))
        elif message.type == CLOSE:
            await self.close()
            return True
        elif message.type == CLOSE_AND_CONNECT:
            await self.close()
            await self.connect()
        elif message.type in (CALL, CALL_BRIEFLY):
            self.start(self.call(message))
        elif message.type == SEND:
            self.send_later(lambda: self.send_many(*struct.unpack(">LL", message.data)))
        elif message.type == TOO_LARGE:
            self.send_later(lambda: self.send_too_large(int.from_bytes(message.data, "big")))
        elif message.type != NOTHING:
            self.send_later(lambda: self.client.write(message.type, message.data))
        return False

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def send_later(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.outbox.put_nowait(call)

    async def send_all(self) -> None:
        """Sends what is in the outbox. If the connection is lost meanwhile, the next read says so."""
        while True:
            call = await self.outbox.get()
            with contextlib.suppress(gipc.NotConnectedError, gipc.UnconfirmedError, gipc.ClosedError):
                await call()
            self.outbox.task_done()

    async def send_many(self, count: int, size: int) -> None:
        for i in range(count):
            await self.client.write(1, bytes([i % 256]) * size)

    async def send_too_large(self, size: int) -> None:
        try:
            await self.client.write(1, bytes(size))
        except gipc.TooLargeError:
            say("too-large")
        await self.client.write(TOO_LARGE, b"")

    async def call(self, message: gipc.Message) -> None:
        brief = message.type == CALL_BRIEFLY
        try:
            reply = await self.client.call(1, message.data, 0.1 if brief else None)
            self.send_later(lambda: self.client.write(reply.type, reply.data))
            return
        except gipc.UnconfirmedError:
            say("call unknown")
        except (gipc.NotConnectedError, gipc.ClosedError):
            say("call unsent")
        if brief:
            self.send_later(lambda: self.client.write(CALL_BRIEFLY, b""))

    async def close(self) -> None:
        """Closes when everything is sent. Raises UndeliveredError."""
        await self.outbox.join()
        await self.client.close()


async def main() -> int:
    return await Program().run()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
