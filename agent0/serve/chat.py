"""POST /v1/chat/completions: from request to answer to memory, whole or streamed."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from agent0.command import log
from agent0.metrics import PROBE, SHADOW, USER, ServerMetrics
from agent0.serve.engine import Engine, Job, QueueFull, Result
from agent0.serve.errors import ApiError
from agent0.serve.logprobs import Piece
from agent0.serve.routing import UnknownAdapter
from agent0.serve.schemas import ChatRequest


class Chat:
    """One chat request: asks the engine, keeps the answer in memory, counts it."""

    def __init__(self, body: ChatRequest, engine: Engine, memory, metrics: ServerMetrics):
        self.body, self.engine, self.memory, self.metrics = body, engine, memory, metrics
        self.id, self.created, self.started = f"chatcmpl-{secrets.token_hex(12)}", time.time(), time.perf_counter()
        self.events, self.loop = asyncio.Queue(), asyncio.get_running_loop()
        self.said = False  # whether the client has seen text of the answer
        self.job = self._submit(body.model, self._hear)
        self._shadow()

    def _hear(self, event: str | Result | Exception) -> None:
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def _shadow(self) -> None:
        """Have a copy of a user's request answered by the route's shadow, if it has one, and only counted."""
        name = self.engine.router.shadow_of(self.body.model, self.job.adapter.name)
        if not name or self.body.store is False:
            return

        def count(event: str | Result | Exception) -> None:
            if not isinstance(event, str):
                success = isinstance(event, Result) and event.success
                self.metrics.observe(name, SHADOW, success, time.perf_counter() - self.started)

        with contextlib.suppress(ApiError):  # a full queue: then there is no copy
            self._submit(name, count)

    def _submit(self, model: str, on_event: Callable[[str | Result | Exception], None]) -> Job:
        """Queue the request. Raises ApiError: 404 unknown model, 429 too many wait, 400 unusable messages."""
        body = self.body
        try:
            return self.engine.submit(
                [message.plain() for message in body.messages],
                on_event,
                model=model,
                key=body.user or self.id,
                max_tokens=body.max_completion_tokens or body.max_tokens,
                sampling=body.sampling(),
                stop=body.stops(),
                stream=bool(body.stream),
                logprobs=body.alternatives(),
            )
        except UnknownAdapter:
            known = ", ".join(["council", *self.engine.router.names])
            message = f"the model {body.model!r} does not exist here; there are: {known}"
            raise ApiError(404, message, "model", "model_not_found") from None
        except QueueFull as error:
            raise ApiError(429, f"too many requests: {error}; try again", code="queue_full") from None
        except ValueError as error:
            raise ApiError(400, str(error), "messages") from None

    async def whole(self, request: Request) -> Response:
        """The answer in one piece; a client that hangs up frees its slot."""
        gone = asyncio.create_task(_disconnected(request))
        event = asyncio.create_task(self._next())
        try:
            await asyncio.wait({gone, event}, return_when=asyncio.FIRST_COMPLETED)
            if not event.done():
                return Response(status_code=499)
            result = await self._finish(event.result())
        finally:
            self.job.cancel()
            gone.cancel()
            event.cancel()
        message = {"role": "assistant", "content": result.text, "refusal": None}
        logprobs = content(result.logprobs)
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": result.finish_reason}
        return JSONResponse(self._envelope("chat.completion", [choice], usage=usage(result), council=council(result)))

    def streamed(self) -> StreamingResponse:
        return StreamingResponse(self._pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _pieces(self) -> AsyncIterator[str]:
        """Server-sent events as OpenAI sends them; an error in mid-stream is an event of its own."""
        told = 0  # tokens whose log-probabilities are out
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            while isinstance(event := await self._next(), str):
                entries = event.logprobs if isinstance(event, Piece) else None
                told += len(entries or ())
                yield self._chunk({"content": event}, entries)
            result = await self._finish(event)
            rest = result.logprobs and result.logprobs[told:]
            if result.new_text or rest:
                yield self._chunk({"content": result.new_text}, rest)
            yield self._chunk({}, None, result.finish_reason, council=council(result))
            if self.body.stream_options and self.body.stream_options.include_usage:
                yield sse(self._envelope("chat.completion.chunk", [], usage=usage(result)))
        except ApiError as error:
            yield sse(error.body())
        finally:
            self.job.cancel()
        yield "data: [DONE]\n\n"

    async def _next(self) -> str | Result | Exception:
        """The engine's next event; where a canary fails before it has said anything, stable answers in its place."""
        event, stable = await self.events.get(), self.engine.router.stable
        routed = self.body.model not in self.engine.router.names
        if isinstance(event, Exception) and routed and not self.said and self.job.adapter.name != stable:
            self._count(event)
            self.job = self._submit(stable, self._hear)
            return await self._next()
        self.said = True
        return event

    def _count(self, event: Result | Exception) -> float:
        """Count what came of the request so far, and return the seconds that it took."""
        seconds, origin = time.perf_counter() - self.started, PROBE if self.body.store is False else USER
        success = isinstance(event, Result) and event.success
        self.metrics.observe(self.job.adapter.name, origin, success, seconds)
        return seconds

    async def _finish(self, event: Result | Exception) -> Result:
        """Count the answer and, unless it is a probe, keep it; then it may go out."""
        seconds = self._count(event)
        if isinstance(event, Exception):
            raise ApiError(500, "the engine failed on this request; the server's log says why") from event
        if self.body.store is not False:
            await self._remember(event, seconds)
        return event

    async def _remember(self, result: Result, seconds: float) -> None:
        """A user still gets the answer when memory fails, and the log gets the reason."""
        record = {
            "id": self.id,
            "timestamp": self.created,
            "response": result.text,
            "success": result.success,
            "confidence": result.confidence,
            "model": self.engine.model,
            "adapter": result.adapter,
            "latency_ms": seconds * 1000,
            "user": self.body.user,
            "failure_reason": None if result.success else f"confidence {result.confidence:.2f}",
        }
        try:
            await asyncio.to_thread(self.memory.add, self.body.query(), record)
        except Exception:
            log.exception("answer %s was given but could not be kept in memory", self.id)

    def _envelope(self, kind: str, choices: list[dict], **more) -> dict:
        head = {"id": self.id, "object": kind, "created": int(self.created), "model": self.body.model}
        return {**head, "choices": choices, **more}

    def _chunk(self, delta: dict, entries: list | None = None, finish_reason: str | None = None, **more) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": content(entries), "finish_reason": finish_reason}
        return sse(self._envelope("chat.completion.chunk", [choice], **more))


def usage(result: Result) -> dict:
    counts = {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.completion_tokens}
    return {**counts, "total_tokens": sum(counts.values())}


def content(entries: list[dict] | None) -> dict | None:
    """A choice's `logprobs`: an entry for each token."""
    return None if entries is None else {"content": entries, "refusal": None}


def council(result: Result) -> dict:
    return {"adapter": result.adapter, "confidence": result.confidence, "success": result.success}


def sse(value: dict) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
