"""POST /v1/chat/completions: from request to answer to memory, whole or streamed."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from agent0.command import log
from agent0.metrics import ANSWER, COPY, PROBE, SHADOW, USER, ServerMetrics
from agent0.serve.errors import ApiError
from agent0.serve.interface import Engine, Job, OnEvent, QueueFull, Result
from agent0.serve.keeper import Keeper
from agent0.serve.logprobs import Piece
from agent0.serve.routing import UnknownAdapter
from agent0.serve.schemas import ChatRequest


@dataclass
class Choice:
    """One of the answers to a request."""

    index: int
    job: Job | None = None
    result: Result | None = None
    said: bool = False  # whether the client has seen text of it
    told: int = 0  # tokens whose log-probabilities are out


class Chat:
    """One chat request: asks the engine, keeps the answer in memory, counts it.

    Of several choices (`n`) memory keeps the first, since it is what most clients show and what feedback is on;
    they count as one request. Its prompt counts once in `usage`, as OpenAI counts.
    """

    def __init__(self, body: ChatRequest, engine: Engine, keeper: Keeper, metrics: ServerMetrics):
        self.body, self.engine, self.keeper, self.metrics = body, engine, keeper, metrics
        self.id, self.created, self.started = f"chatcmpl-{secrets.token_hex(12)}", time.time(), time.perf_counter()
        self.events, self.loop = asyncio.Queue(), asyncio.get_running_loop()
        self.choices = [Choice(index) for index in range(body.n or 1)]
        self._succeeded: dict[str, bool] = {}  # the answer of the adapter that was asked first, and its copy
        try:
            for choice in self.choices:
                self._ask(choice, body.model)
        except ApiError:
            self._cancel()
            raise
        self._shadow()

    def _ask(self, choice: Choice, model: str) -> None:
        def hear(event: str | Result | Exception) -> None:
            self.loop.call_soon_threadsafe(self.events.put_nowait, (choice, event))

        choice.job = self._submit(model, hear, choice.index)

    def _cancel(self) -> None:
        for choice in self.choices:
            if choice.job:
                choice.job.cancel()

    def _shadow(self) -> None:
        """Have a copy of a user's request answered by the route's shadow, if it has one, and only counted."""
        self._asked = self.choices[0].job.adapter.name
        name = self.engine.router.shadow_of(self.body.model, self._asked)
        if not name or self.body.store is False:
            return

        def count(event: str | Result | Exception) -> None:
            if not isinstance(event, str):
                success = isinstance(event, Result) and event.success
                self.metrics.observe(name, SHADOW, success, time.perf_counter() - self.started)
                self.loop.call_soon_threadsafe(self._compare, COPY, success)

        with contextlib.suppress(ApiError):  # a full queue: then there is no copy
            self._submit(name, count)

    def _submit(self, model: str, on_event: OnEvent, choice: int = 0) -> Job:
        """Queue the request. Raises ApiError: 404 unknown model, 429 too many wait, 400 unusable messages."""
        body = self.body
        try:
            return self.engine.submit(
                [message.plain() for message in body.messages],
                on_event,
                model=model,
                key=body.user or self.id,
                max_tokens=body.max_completion_tokens or body.max_tokens,
                sampling=body.sampling(choice),
                stop=body.stops(),
                stream=bool(body.stream),
                logprobs=body.alternatives(),
            )
        except UnknownAdapter:
            known = ", ".join(["council", *self.engine.router.names])
            message = f"the model {body.model!r} does not exist here; there are: {known}"
            raise ApiError(404, message, "model", "model_not_found") from None
        except QueueFull as error:
            message = f"too many requests: {error}; try again in {error.seconds} s"
            raise ApiError(429, message, code="queue_full", after=str(error.seconds)) from None
        except ValueError as error:
            raise ApiError(400, str(error), "messages") from None

    async def whole(self, request: Request) -> Response:
        """The answer in one piece; a client that hangs up frees its slot."""
        gone = asyncio.create_task(_disconnected(request))
        done = asyncio.create_task(self._finished())
        try:
            await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                return Response(status_code=499)
            results = done.result()
        finally:
            self._cancel()
            gone.cancel()
            done.cancel()
        more = {"usage": usage(results), "council": council(results[0])}
        return JSONResponse(self._envelope("chat.completion", list(map(whole_choice, self.choices)), **more))

    async def _finished(self) -> list[Result]:
        async for _ in self._heard():
            pass
        return [choice.result for choice in self.choices]

    def streamed(self) -> StreamingResponse:
        return StreamingResponse(self._pieces(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def _pieces(self) -> AsyncIterator[str]:
        """Server-sent events as OpenAI sends them; an error in mid-stream is an event of its own."""
        try:
            for choice in self.choices:
                yield self._chunk(choice, {"role": "assistant", "content": ""})
            async for choice, event in self._heard():
                for chunk in self._chunks(choice, event):
                    yield chunk
            if self.body.stream_options and self.body.stream_options.include_usage:
                counts = usage([choice.result for choice in self.choices])
                yield sse(self._envelope("chat.completion.chunk", [], usage=counts))
        except ApiError as error:
            yield sse(error.body())
        finally:
            self._cancel()
        yield "data: [DONE]\n\n"

    def _chunks(self, choice: Choice, event: str | Result) -> list[str]:
        """What a stream says of an event: the text, with its tokens' log-probabilities, and the end."""
        if isinstance(event, str):
            entries = event.logprobs if isinstance(event, Piece) else None
            choice.told += len(entries or ())
            return [self._chunk(choice, {"content": event}, entries)]
        rest = event.logprobs and event.logprobs[choice.told :]
        last = [self._chunk(choice, {"content": event.new_text}, rest)] if event.new_text or rest else []
        return [*last, self._chunk(choice, {}, None, event.finish_reason, council=council(event))]

    async def _heard(self) -> AsyncIterator[tuple[Choice, str | Result]]:
        """What comes of the choices until all are finished, counted and, unless it is a probe, being kept."""
        while any(choice.result is None for choice in self.choices):
            choice, event = await self._next()
            if isinstance(event, Exception):
                raise self._failed(choice, event) from event
            if isinstance(event, Result):
                self._finish(choice, event)
            yield choice, event

    def _failed(self, choice: Choice, error: Exception) -> ApiError:
        """Count a failed request, but not one that was refused, and return what its client is told."""
        if is_failure(error):
            self._count(choice, error)
        if not isinstance(error, ApiError):
            return ApiError(500, "the engine failed on this request; the server's log says why")
        if is_failure(error):
            log.error("a request to %s failed: %s", choice.job.adapter.name, error)
        return error

    async def _next(self) -> tuple[Choice, str | Result | Exception]:
        """The engine's next event; where a canary fails before it has said anything, stable answers in its place."""
        while True:
            (choice, event), stable = await self.events.get(), self.engine.router.stable
            routed = self.body.model not in self.engine.router.names
            replaceable = routed and not choice.said and choice.job.adapter.name != stable
            if not (is_failure(event) and replaceable):
                choice.said = True
                return choice, event
            self._count(choice, event)
            self._ask(choice, stable)

    def _count(self, choice: Choice, event: Result | Exception) -> None:
        """Count what came of the request so far."""
        seconds, origin = time.perf_counter() - self.started, PROBE if self.body.store is False else USER
        success = isinstance(event, Result) and event.success
        self.metrics.observe(choice.job.adapter.name, origin, success, seconds)
        self._compare(ANSWER, success)

    def _compare(self, which: str, success: bool) -> None:
        """Note an end; with the second of the two, answer and copy are compared."""
        if which in self._succeeded:
            return
        self._succeeded[which] = success
        if len(self._succeeded) == 2:
            self.metrics.compare(self._asked, self._succeeded[ANSWER], self._succeeded[COPY])

    def _finish(self, choice: Choice, result: Result) -> None:
        choice.result, first = result, self.choices[0]
        if choice is first and self.body.store is not False:
            self.keeper.keep(self.body.query(), self._record(result))
        if all(choice.result for choice in self.choices):
            self._count(first, first.result)

    def _record(self, result: Result) -> dict:
        return {
            "id": self.id,
            "timestamp": self.created,
            "response": result.text,
            "success": result.success,
            **({} if result.confidence is None else {"confidence": result.confidence}),
            "model": self.engine.model,
            "adapter": result.adapter,
            "latency_ms": (time.perf_counter() - self.started) * 1000,
            "user": self.body.user,
            "failure_reason": None if result.success else f"confidence {result.confidence:.2f}",
        }

    def _envelope(self, kind: str, choices: list[dict], **more) -> dict:
        head = {"id": self.id, "object": kind, "created": int(self.created), "model": self.body.model}
        return {**head, "choices": choices, **more}

    def _chunk(
        self, choice: Choice, delta: dict, entries: list | None = None, finish_reason: str | None = None, **more
    ) -> str:
        told = {"index": choice.index, "delta": delta, "logprobs": content(entries), "finish_reason": finish_reason}
        return sse(self._envelope("chat.completion.chunk", [told], **more))


def is_failure(event: str | Result | Exception) -> bool:
    """Whether whoever answers has failed; a request that is refused is its client's own affair."""
    return isinstance(event, Exception) and not (isinstance(event, ApiError) and event.status < 500)


def whole_choice(choice: Choice) -> dict:
    result = choice.result
    message = {"role": "assistant", "content": result.text, "refusal": None}
    more = {"logprobs": content(result.logprobs), "finish_reason": result.finish_reason}
    return {"index": choice.index, "message": message, **more}


def usage(results: list[Result]) -> dict:
    completion = sum(result.completion_tokens for result in results)
    prompt = results[0].prompt_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


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
