"""The upstream engine: any OpenAI-compatible server answers; adapters go through vLLM's LoRA endpoints.

An answer is always streamed from the upstream, over a connection of its own: giving it up closes that connection,
which makes servers stop generating, and an answer that was cut off is told from a short one.
"""

import contextlib
import math
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agent0 import outbound
from agent0.command import USAGE, CouncilError, log
from agent0.serve.errors import ApiError
from agent0.serve.interface import OnEvent, QueueFull, Result, Sampling
from agent0.serve.logprobs import Piece
from agent0.serve.remote import Remote, Unknown
from agent0.serve.routing import BASE, STABLE, Router
from agent0.settings import get_settings

IN_FLIGHT_PER_SLOT = 16  # times MAX_BATCH may be under way: the upstream queues and batches them
FINISHED = ("stop", "length", "content_filter")
NO_LORA = (
    "it has no LoRA endpoints, so it serves chat only; for adapters start vLLM with --enable-lora and the environment "
    "variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
)
HINTS = (  # what vLLM says when it does not take an adapter, and what to do
    (
        r"rank (\d+) is greater than max_lora_rank",
        "start vLLM with --max-lora-rank {0}, or train with a lower LORA_RANK",
    ),
    (r"no adapter found", "vLLM reads the folder itself: its machine must have it at the same path"),
)


@dataclass(frozen=True)
class Adapter:
    """An adapter: our name, the upstream's name for it, and the folder it is loaded from; `base` has none."""

    name: str
    model: str
    folder: Path | None = None


class Job:
    """One request on its way, and the socket to break it off by."""

    def __init__(self, adapter: Adapter, body: dict, on_event: OnEvent, stream: bool, logprobs: int | None):
        self.adapter, self.body, self.on_event, self.stream = adapter, body, on_event, stream
        self._logprobs = logprobs
        self.cancelled, self._socket = False, None

    def hold(self, connected: socket.socket) -> None:
        self._socket = connected
        if self.cancelled:
            self.cancel()

    def told(self, entries: list[dict]) -> list[dict] | None:
        """The tokens' log-probabilities as they were asked for: all, with so many others each; None: not at all."""
        if self._logprobs is None:
            return None
        others = [(entry.get("top_logprobs") or [])[: self._logprobs] for entry in entries]
        return [{"bytes": None, **entry, "top_logprobs": top} for entry, top in zip(entries, others, strict=True)]

    def cancel(self) -> None:
        """Nobody waits any more: end the connection, whatever is being waited for on it."""
        self.cancelled = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)


class UpstreamEngine:
    """A server that serves `model`, with what it has loaded of our adapters. `submit` from any thread."""

    kind = "upstream"

    def __init__(self, remote: Remote, model: str):
        settings = get_settings()
        self.model, self._remote = model, remote
        self.threshold, self.default_tokens = settings.confidence_threshold, settings.max_tokens
        self.router = Router(Adapter(BASE, model), model)
        self._folders: dict[str, Path] = {}  # of every name that was ever loaded: see load
        self._in_flight: Counter[str] = Counter()
        self._changed, self._closing, self._told = threading.Condition(), False, False
        self._busy_at = time.monotonic()
        self._most = IN_FLIGHT_PER_SLOT * settings.max_batch
        self._pool = ThreadPoolExecutor(self._most, thread_name_prefix="upstream")

    def trouble(self) -> str | None:
        """Why no request can be answered now; None where all is well."""
        try:
            self._remote.models()
        except (ApiError, Unknown) as error:
            return str(error)
        return None

    # Adapters: the upstream reads them; a request takes its own from the router once, when it comes in.

    def load(self, name: str, folder: Path) -> None:
        """Have the upstream load an adapter. Raises ValueError where it refuses this one, ApiError where it fails.

        A name stands for one folder for ever: vLLM may answer from what it cached under a name (vLLM #42125).
        """
        self.router.check_new(name)
        adapter = Adapter(name, name, folder.resolve())
        if self._folders.get(name, adapter.folder) != adapter.folder:
            raise ValueError(f"adapter {name!r} was another one before, and names are not reused; give it a new name")
        self._load(adapter)
        self._folders[name] = adapter.folder
        self.router.add(adapter)

    def _load(self, adapter: Adapter) -> None:
        """Load it upstream; one that is there already is fine, unless it comes from elsewhere."""
        body = {"lora_name": adapter.model, "lora_path": str(adapter.folder)}
        status, reason = self._remote.change_adapter("load", body)
        if status == 200:
            return
        if status == 400 and re.search("already (been )?loaded", reason):
            roots = {card["id"]: card.get("root") for card in self._remote.models()}
            if roots.get(adapter.model) in (None, str(adapter.folder)):
                return
            reason = f"it has another adapter of that name, from {roots[adapter.model]}; unload that one there"
        message = f"the upstream does not load {adapter.name!r}: {with_hint(status, reason)}"
        if status == 400 or "max_lora_rank" in reason:
            raise ValueError(message)
        raise ApiError(502, message)  # the upstream's affair, not the adapter's

    def unload(self, name: str) -> None:
        """Send no more requests to an adapter, wait until those under way are done, and unload it upstream.

        Raises UnknownAdapter, ValueError if it serves, or ApiError where the upstream keeps it.
        """
        with self._changed:
            self.router.unload(name)
            self._changed.wait_for(lambda: not self._in_flight[name])
        status, reason = self._remote.change_adapter("unload", {"lora_name": name})
        if status not in (200, 404):  # 404: it was restarted, and has lost it anyway
            raise ApiError(502, f"the upstream keeps {name!r} (HTTP {status}): {reason}")

    # Requests.

    def submit(
        self,
        messages: list[dict],
        on_event: OnEvent,
        *,
        model: str = STABLE,
        key: str = "",
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: tuple[str, ...] = (),
        stream: bool = False,
        logprobs: int | None = None,
    ) -> Job:
        """Send a request on. Raises UnknownAdapter or QueueFull."""
        body = request_body(messages, max_tokens or self.default_tokens, sampling or Sampling(), stop, logprobs or 0)
        with self._changed:
            adapter = self.router.resolve(model, key)
            if self._closing or self._in_flight.total() >= self._most:
                raise QueueFull("the server is shutting down" if self._closing else f"{self._most} are under way")
            job = Job(adapter, {**body, "model": adapter.model}, on_event, stream, logprobs)
            self._in_flight[adapter.name] += 1
            self._pool.submit(self._work, job)
        return job

    def _work(self, job: Job) -> None:
        try:
            event = self._answer(job)
        except ApiError as error:
            event = error
        except Exception as error:  # one bad request must not end the service
            log.exception("a request to the upstream failed")
            event = error
        with self._changed:
            self._in_flight[job.adapter.name] -= 1
            self._busy_at = time.monotonic()
            self._changed.notify_all()
        if not job.cancelled:
            job.on_event(event)

    def _answer(self, job: Job) -> Result:
        """Ask; where the upstream was restarted and has lost the adapter, load it again and ask once more."""
        try:
            return self._ask(job)
        except Unknown as error:
            if job.adapter.folder is None:
                raise ApiError(502, f"the upstream does not serve {self.model!r}: {error}") from None
        log.warning("warning: the upstream has lost adapter %s; loading it again", job.adapter.name)
        try:
            self._load(job.adapter)
            return self._ask(job)
        except (Unknown, ValueError) as error:
            raise ApiError(502, f"the upstream has lost adapter {job.adapter.name!r}: {error}") from None

    def _ask(self, job: Job) -> Result:
        """Pass pieces on as they come, and return the Result. Raises ApiError where the answer breaks off."""
        text, entries, finish, used = "", [], None, {}
        with contextlib.closing(self._remote.chat(job.body, job.hold)) as pieces:
            for piece in pieces:
                text, finish, used = text + piece.text, piece.finish_reason or finish, piece.usage or used
                entries += piece.logprobs
                if piece.text and job.stream and not job.cancelled:
                    told = job.told(piece.logprobs)
                    job.on_event(piece.text if told is None else Piece.of(piece.text, told))
        if finish not in FINISHED:
            raise ApiError(
                502, f"the upstream's answer {f'ended by {finish!r}' if finish else 'was cut off'}; ask again"
            )
        confidence = self._confidence([entry["logprob"] for entry in entries])
        sure = confidence is None or confidence > self.threshold
        counts = used.get("prompt_tokens", 0), used.get("completion_tokens", len(entries))
        return Result(text, job.adapter.name, confidence, sure, finish, *counts, logprobs=job.told(entries))

    def _confidence(self, log_probabilities: list[float]) -> float | None:
        """The geometric mean of the tokens' probabilities; None, said once in the log, where there are none."""
        if log_probabilities:
            return math.exp(min(0.0, sum(log_probabilities) / len(log_probabilities)))
        if not self._told:
            self._told = True
            log.warning("warning: the upstream gives no logprobs: answers have no confidence and count as successes")
        return None

    def quiet_for(self) -> float:
        """Seconds since the last request was at work; 0 while one is."""
        with self._changed:
            return 0.0 if self._in_flight.total() else time.monotonic() - self._busy_at

    def close(self) -> None:
        """Take no more requests, and finish those that came in."""
        with self._changed:
            self._closing = True
        self._pool.shutdown()


def request_body(
    messages: list[dict], max_tokens: int, sampling: Sampling, stop: tuple[str, ...], top_logprobs: int
) -> dict:
    """OpenAI's request, without the model."""
    return {
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        **({} if sampling.seed is None else {"seed": sampling.seed}),
        **({"stop": list(stop)} if stop else {}),
        "logprobs": True,
        "top_logprobs": max(
            1, top_logprobs
        ),  # llama.cpp gives twenty where none is named, and no probability at all for 0
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def with_hint(status: int, reason: str) -> str:
    """vLLM's reason for not taking an adapter, and what to do."""
    for pattern, hint in HINTS:
        if found := re.search(pattern, reason, re.IGNORECASE):
            return f"{reason.rstrip('.')}; {hint.format(*found.groups())}"
    return NO_LORA if status in (404, 405, 501) else f"HTTP {status}: {reason}"


def load_engine() -> UpstreamEngine:
    """The engine before UPSTREAM_URL. Raises CouncilError where that may not be reached or serves no clear model."""
    settings = get_settings()
    try:
        outbound.checked_host(settings.upstream_url)
    except outbound.Forbidden as error:
        raise CouncilError(f"UPSTREAM_URL: {error}", USAGE) from None
    remote = Remote(settings.upstream_url)
    try:
        model = settings.upstream_model or remote.base_model()
    except (ApiError, Unknown) as error:
        raise CouncilError(f"UPSTREAM_URL={settings.upstream_url}: {error}") from None
    log.info("engine: %s at %s", model, remote.url)
    return UpstreamEngine(remote, model)
