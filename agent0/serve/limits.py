"""How much, and for how long, a client may send before it has to be a request: the server must outlive bad clients."""

import asyncio
import json

from fastapi import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent0.serve.callers import check_key
from agent0.serve.errors import ApiError

STRANGERS_BODY = 64 << 10  # bytes; of who has no key: a body is read and parsed before the key is looked at
MAX_BODY = 8 << 20  # bytes; a message has at most 200,000 characters, and the context is far shorter
BODY_SECONDS, HEADER_SECONDS = 30, 15


class BodyLimit:
    """ASGI middleware: 413 for a body of more than MAX_BODY bytes, 408 for one that takes over BODY_SECONDS."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = _most(scope)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _whole(receive, most)
        except TimeoutError:
            return await _refuse(send, ApiError(408, f"the body did not come within {BODY_SECONDS} s; send it again"))
        if body is None:
            return await _refuse(send, ApiError(413, f"the body has more than {most >> 10} KB; send less"))
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        await self.app(scope, lambda: _next(messages, receive), send)


def _most(scope) -> int:
    """How long the body of a request may be."""
    try:
        check_key(Request(scope))
    except ApiError:
        return STRANGERS_BODY
    return MAX_BODY


async def _whole(receive, most: int) -> bytes | None:
    """Return the request's body; None where it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > most:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _next(messages: list, receive):
    return messages.pop() if messages else await receive()


async def _refuse(send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request headers do not come within HEADER_SECONDS."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        idle = self._between_requests()
        super().data_received(data)
        if idle and self._between_requests():
            self._await_headers()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_headers(self) -> None:
        if getattr(self, "_awaited_after", self) is not self.cycle:  # once after each request
            self._awaited_after = self.cycle
            self.loop.call_later(HEADER_SECONDS, self._close_if_waiting, self.cycle)

    def _close_if_waiting(self, cycle) -> None:
        if self.cycle is cycle and not self.transport.is_closing():
            self.transport.close()
