"""The program that "gipc conform" starts to judge gipc.py: see CONFORM.md of that command.

    gipc conform -- python3 spec/python/conform.py
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import sys
from collections.abc import Coroutine
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
    """Obeys the messages of the server."""

    def __init__(self) -> None:
        self.config = configuration()
        rekey_at = int(os.environ.get("GIPC_CONFORM_REKEY_AT", gipc.REKEY_AT))
        self.sources = gipc.Sources(rekey_at=rekey_at)
        self.client = gipc.AsyncClient(self.config, self.sources)
        self.tasks: set[asyncio.Task[None]] = set()

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
                await self.sending(self.client.reply(message, message.data))
        elif message.type == CLOSE:
            await self.close()
            return True
        elif message.type == CLOSE_AND_CONNECT:
            await self.close()
            await self.connect()
        elif message.type in (CALL, CALL_BRIEFLY):
            task = asyncio.create_task(self.call(message))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif message.type == SEND:
            count, size = struct.unpack(">LL", message.data)
            for i in range(count):
                await self.sending(self.client.write(1, bytes([i % 256]) * size))
        elif message.type == TOO_LARGE:
            await self.send_too_large(int.from_bytes(message.data, "big"))
        elif message.type != NOTHING:
            await self.sending(self.client.write(message.type, message.data))
        return False

    async def sending(self, call: Coroutine[Any, Any, None]) -> None:
        """Sends. If the connection is lost meanwhile, the next read says so."""
        with contextlib.suppress(gipc.NotConnectedError, gipc.UnconfirmedError):
            await call

    async def send_too_large(self, size: int) -> None:
        try:
            await self.client.write(1, bytes(size))
        except gipc.TooLargeError:
            say("too-large")
        await self.sending(self.client.write(TOO_LARGE, b""))

    async def call(self, message: gipc.Message) -> None:
        brief = message.type == CALL_BRIEFLY
        try:
            reply = await self.client.call(1, message.data, 0.1 if brief else None)
            await self.sending(self.client.write(reply.type, reply.data))
            return
        except gipc.UnconfirmedError:
            say("call unknown")
        except (gipc.NotConnectedError, gipc.ClosedError):
            say("call unsent")
        if brief:
            await self.sending(self.client.write(CALL_BRIEFLY, b""))

    async def close(self) -> None:
        """Raises UndeliveredError."""
        await self.client.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(Program().run()))
