"""The HTTP face of the Council: OpenAI's chat API, vLLM's LoRA endpoints, health, metrics, feedback, routing."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from agent0 import adapters
from agent0.command import CouncilError
from agent0.metrics import ServerMetrics
from agent0.serve import errors, overrule, pages, schemas
from agent0.serve.callers import check_key
from agent0.serve.chat import Chat
from agent0.serve.errors import ApiError
from agent0.serve.interface import Engine
from agent0.serve.keeper import Keeper
from agent0.serve.limits import BodyLimit
from agent0.serve.routing import UnknownAdapter


def create_app(engine: Engine, memory) -> FastAPI:
    """The app over a running engine and an open FaissMemory, both of which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await asyncio.to_thread(engine.close)
        await asyncio.to_thread(keeper.close)
        await asyncio.to_thread(memory.close)

    app = FastAPI(title="AutoGen Council", lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    app.add_middleware(BodyLimit)
    metrics, keeper = ServerMetrics(), Keeper(memory)
    _add_reading(app, engine, metrics)
    _add_chat(app, engine, keeper, metrics)
    _add_adapters(app, engine)
    visitors = pages.Visitors()
    pages.install(app, memory, visitors)
    overrule.install(app, memory, visitors)
    return app


def _add_reading(app: FastAPI, engine: Engine, metrics: ServerMetrics) -> None:
    started = time.monotonic()

    @app.get("/health")
    async def health() -> Response:
        trouble = await asyncio.to_thread(engine.trouble)
        state = {
            "status": "unhealthy" if trouble else "healthy",
            **({"reason": trouble} if trouble else {}),
            "model": engine.model,
            "adapter": engine.router.stable,
            **{name: engine.router.routing[name] for name in ("canary", "share", "shadow")},
            "engine": engine.kind,
            "adapters": engine.router.names,
            "uptime_seconds": round(time.monotonic() - started, 1),
        }
        return JSONResponse(state, 503 if trouble else 200)

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict:
        names = ["council", *engine.router.names]
        return {
            "object": "list",
            "data": [{"id": n, "object": "model", "created": 0, "owned_by": "council"} for n in names],
        }


def _add_chat(app: FastAPI, engine: Engine, keeper: Keeper, metrics: ServerMetrics) -> None:
    @app.post("/v1/chat/completions", dependencies=[Depends(check_key)])
    async def chat(body: schemas.ChatRequest, request: Request) -> Response:
        conversation = Chat(body, engine, keeper, metrics)
        return conversation.streamed() if body.stream else await conversation.whole(request)

    @app.post("/v1/feedback", dependencies=[Depends(check_key)])
    async def feedback(body: schemas.Feedback) -> dict:
        try:
            await keeper.feedback(body.id, **body.model_dump(exclude={"id"}, exclude_none=True))
        except KeyError:
            raise ApiError(404, f"memory holds no answer {body.id!r}", "id") from None
        except (CouncilError, ValueError) as error:
            raise ApiError(400, str(error)) from None
        return {"id": body.id, "status": "recorded"}


def _add_adapters(app: FastAPI, engine: Engine) -> None:
    @app.post("/v1/load_lora_adapter", dependencies=[Depends(check_key)])
    def load(body: schemas.LoadAdapter) -> PlainTextResponse:
        try:
            release = adapters.validate(body.lora_path)
            if release.is_base:
                raise ValueError(f"{body.lora_path} stands for no adapter: `base` is always loaded")
            engine.load(body.lora_name, release.path)
        except (CouncilError, ValueError) as error:
            raise ApiError(400, str(error), "lora_path") from None
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter", dependencies=[Depends(check_key)])
    def unload(body: schemas.UnloadAdapter) -> PlainTextResponse:
        with _known("lora_name", engine):
            engine.unload(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    @app.post("/v1/route", dependencies=[Depends(check_key)])
    def route(body: schemas.Route) -> dict:
        known = (None, *engine.router.names)
        unknown = [field for field in ("stable", "canary", "shadow") if getattr(body, field) not in known]
        with _known(unknown[0] if unknown else "share", engine):
            previous = engine.router.route(body.stable, body.canary, body.share, body.shadow)
        return {"previous": previous, **engine.router.routing}


@contextmanager
def _known(field: str, engine: Engine) -> Iterator[None]:
    """Turn the engine's refusals about an adapter's name into HTTP errors."""
    try:
        yield
    except UnknownAdapter as error:
        message = f"no adapter {error.args[0]!r} is loaded; there are: {', '.join(engine.router.names)}"
        raise ApiError(404, message, field, "adapter_not_found") from None
    except ValueError as error:
        raise ApiError(400, str(error), field) from None
