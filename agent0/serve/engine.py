"""The embedded engine: one worker thread that answers many requests at once, each on the adapter it started with."""

import math
import os
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from agent0.command import CouncilError, log
from agent0.models import base_model_name, base_model_path
from agent0.serve.decoder import Decoder, Lora, Sequence, Span
from agent0.serve.interface import OnEvent, QueueFull, Result, Sampling
from agent0.serve.logprobs import Logprobs, Piece
from agent0.serve.lora import read_lora
from agent0.serve.native import NativeDecoder, load_library
from agent0.serve.routing import BASE, STABLE, Router
from agent0.serve.sampling import choose, generator_for
from agent0.serve.text import Prompter, Transcript, common_length
from agent0.serve.torch_decoder import TorchDecoder
from agent0.settings import get_settings

WAITING_PER_SLOT = 16  # requests that may wait for each slot; more are told to come back
ASIDE = 10  # niceness of a thread that reads an adapter
PIECE_SECONDS = 0.02  # between pieces of a streamed answer: each costs as much work as half a token
STEP_TOKENS = 128  # rows of one forward pass: a long prompt is read in pieces, between others' tokens


@dataclass(frozen=True)
class Prefix:
    """The keys and values of tokens that all prompts share: (layers, 2 * kv heads, tokens, head size)."""

    tokens: list[int]
    cache: object


@dataclass(frozen=True, eq=False)
class Adapter:
    """A loaded LoRA; `base` has none. Never changes, so that requests can hold it while others come and go."""

    name: str
    lora: Lora | None
    prefix: Prefix


@dataclass(eq=False)
class Job:
    """One request on its way. The worker gives `on_event` pieces of text (if `stream`), then a Result or an error."""

    prompt: list[int]
    adapter: Adapter
    max_tokens: int
    sampling: Sampling
    transcript: Transcript
    on_event: OnEvent
    stream: bool = False
    cancelled: bool = False
    sequence: Sequence | None = None
    started: float = 0.0
    told: float = 0.0  # when its last piece went out
    tokens: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    generator: object = None
    logprobs: Logprobs | None = None

    def cancel(self) -> None:
        """Nobody waits any more: give the slot back before the next token."""
        self.cancelled = True

    def next_tokens(self, room: int) -> list[int]:
        """What its next forward pass reads: a piece of the prompt, then one token at a time."""
        done = self.sequence.length
        return self.prompt[done : done + room] if done < len(self.prompt) else self.tokens[-1:]


class Engine:
    """Decoder, adapters and worker. `submit` from any thread; `close` finishes what has begun."""

    kind = "embedded"

    def __init__(self, decoder: Decoder, tokenizer, end_tokens: set[int]):
        settings = get_settings()
        self.slots, self.threshold = settings.max_batch, settings.confidence_threshold
        self.default_tokens, self.model = settings.max_tokens, base_model_name()
        self.decoder, self.prompter, self.end_tokens = decoder, Prompter(tokenizer), end_tokens
        self._active: list[Job] = []
        self._waiting: deque[Job] = deque()
        self._wake, self._closing, self._busy_at = threading.Condition(), False, time.monotonic()
        self._answer_seconds = 1.0  # what an answer takes in its slot, lately
        self.router = Router(Adapter(BASE, None, self._read_prefix(None)), self.model)
        self._worker = threading.Thread(target=self._work, name="engine", daemon=True)
        self._worker.start()

    # Adapters: a request takes its own from the router once, when it comes in.

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter beside what serves. Raises ValueError with the reason; then nothing has changed."""
        self.router.check_new(name)
        with ThreadPoolExecutor(1, "adapter", _stand_back) as aside:
            self.router.add(aside.submit(self._read, name, folder).result())

    def _read(self, name: str, folder: Path) -> Adapter:
        lora = read_lora(folder, self.decoder)
        return Adapter(name, lora, self._read_prefix(lora))

    def unload(self, name: str) -> None:
        """Forget an adapter; requests that run on it finish. Raises UnknownAdapter, or ValueError if it serves."""
        self.router.unload(name)

    def trouble(self) -> str | None:
        """Why no request can be answered now: there is nothing to wait for in this process."""
        return None

    def _read_prefix(self, lora: Lora | None) -> Prefix:
        """Read once what every chat starts with, so that no request reads it again."""
        tokens = self.prompter.constant_prefix()
        sequence = self.decoder.new_sequence(max(1, len(tokens)))
        if tokens:
            self.decoder.forward([Span(sequence, tokens, lora)])
        return Prefix(tokens, sequence.cache)

    # Requests.

    def submit(
        self,
        messages: list[dict],
        on_event: OnEvent,
        *,
        model: str = STABLE,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        stop: tuple[str, ...] = (),
        stream: bool = False,
        logprobs: int | None = None,
        key: str = "",
    ) -> Job:
        """Queue a request; `key` is the user or request that a canary's share goes by.

        `logprobs`: how many alternatives to list with the log-probability of each token; None tells none.
        Raises UnknownAdapter, QueueFull, or ValueError for messages that cannot be a prompt.
        """
        adapter, prompt = self.router.resolve(model, key), self.prompter.encode(messages)
        room = self.decoder.context - len(prompt)
        if room < 1:
            raise ValueError(f"the prompt has {len(prompt)} tokens; at most {self.decoder.context - 1} fit: shorten it")
        sampling = sampling or Sampling()
        transcript = Transcript(self.prompter.tokenizer, list(stop))
        limit = min(room, max_tokens or self.default_tokens)
        job = Job(prompt, adapter, limit, sampling, transcript, on_event, stream, generator=generator_for(sampling))
        job.logprobs = None if logprobs is None else Logprobs(self.prompter, logprobs)
        with self._wake:
            self._check_room()
            self._waiting.append(job)
            self._wake.notify()
        return job

    def _check_room(self) -> None:
        """Raise QueueFull where no more may wait. Who has hung up does not count."""
        if self._closing:
            raise QueueFull("the server is shutting down")
        if len(self._waiting) >= WAITING_PER_SLOT * self.slots:
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        if (waiting := len(self._waiting)) >= WAITING_PER_SLOT * self.slots:
            half_the_queue = waiting / 2 / self.slots * self._answer_seconds
            raise QueueFull(f"{waiting} are waiting", min(60, max(1, round(half_the_queue))))

    def answer(self, question: str, **options) -> Result:
        """Answer one question and wait for it."""
        done, events = threading.Event(), []

        def on_event(event):
            events.append(event)
            done.set()

        self.submit([{"role": "user", "content": question}], on_event, **options)
        done.wait()
        if isinstance(events[0], Exception):
            raise events[0]
        return events[0]

    def quiet_for(self) -> float:
        """Seconds since the last request was at work; 0 while one is."""
        with self._wake:
            return 0.0 if self._active or self._waiting else time.monotonic() - self._busy_at

    def close(self) -> None:
        """Take no more requests, finish those that came in, and end the worker."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._worker.join()

    # The worker.

    def _work(self) -> None:
        """Generate until closed, on all cores.

        No other thread may start an OpenMP team: with more threads than cores libgomp stops spinning between the
        small steps of a token, which costs two thirds of the speed.
        """
        torch.get_num_threads()  # a thread's first look takes over what any other thread has set last
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        while self._admit():
            try:
                self._step()
            except Exception as error:  # one bad step must not end the service: its requests get the error
                log.exception("a generation step failed")
                failed = self._suspects()
                self._leave(failed)
                for job in failed:
                    job.on_event(error)

    def _suspects(self) -> list[Job]:
        """Whose requests a failed step fails: those of adapters beside the stable one, else all.

        The step changed no sequence, so that the others take it again.
        """
        beside = [job for job in self._active if job.adapter.name != self.router.stable]
        return beside or self._active

    def _admit(self) -> bool:
        """Give free slots to who waits longest; sleep while there is nothing to do; False when closed and done."""
        with self._wake:
            self._busy_at = time.monotonic()
            while not (self._active or self._waiting or self._closing):
                self._wake.wait()
            while self._waiting and len(self._active) < self.slots:
                self._active.append(self._waiting.popleft())
        return bool(self._active)

    def _step(self) -> None:
        """One forward pass for all active requests, and one token for each that has read its prompt."""
        self._leave([job for job in self._active if job.cancelled])
        jobs, spans = self._plan()
        if not spans:
            return
        logits = self.decoder.forward(spans)
        ready = [row for row, job in enumerate(jobs) if job.sequence.length >= len(job.prompt)]
        if not ready:
            return
        wanted = logits if len(ready) == len(jobs) else logits[ready]  # which would copy them
        chosen = choose(wanted, [(jobs[row].sampling, jobs[row].generator) for row in ready])
        for row, token in zip(ready, chosen, strict=True):
            if jobs[row].logprobs and token[0] not in self.end_tokens:
                jobs[row].logprobs.add(*token, logits[row])
        finished = [jobs[row] for row, token in zip(ready, chosen, strict=True) if self._take(jobs[row], *token)]
        self._leave(finished)

    def _leave(self, gone: list[Job]) -> None:
        """Give back slots and caches at once: those who asked may hold on to a job for long."""
        self._active = [job for job in self._active if job not in gone]
        for job in gone:
            job.sequence = None

    def _plan(self) -> tuple[list[Job], list[Span]]:
        """Every answer's next token, then prompts, oldest first, in what room is left; adapters side by side."""
        for job in self._active:
            if job.sequence is None:
                job.sequence, job.started = self._start(job), time.monotonic()
        room, plan = STEP_TOKENS, []
        for job in sorted(self._active, key=lambda job: not job.tokens):
            tokens = job.next_tokens(room) if room > 0 or job.tokens else []
            room -= len(tokens)
            if tokens:
                plan.append((job, Span(job.sequence, tokens, job.adapter.lora)))
        plan.sort(key=lambda pair: id(pair[1].lora))
        return [job for job, _ in plan], [span for _, span in plan]

    def _start(self, job: Job) -> Sequence:
        """A cache that already holds what the prompt shares with the adapter's prefix (but for one token to run)."""
        sequence = self.decoder.new_sequence(len(job.prompt) + job.max_tokens)
        shared = common_length(job.adapter.prefix.tokens, job.prompt[:-1])
        sequence.cache[:, :, :shared] = job.adapter.prefix.cache[:, :, :shared]
        sequence.length = shared
        return sequence

    def _take(self, job: Job, token: int, log_probability: float) -> bool:
        """Add a token to an answer and tell who waits for it; True when the answer is finished."""
        job.tokens.append(token)
        job.log_probability += log_probability
        ended = token in self.end_tokens
        if not ended:
            job.transcript.push(token)
        ended = ended or job.transcript.stopped
        if ended or len(job.tokens) >= job.max_tokens:
            job.on_event(self._result(job, "stop" if ended else "length"))
            return True
        if job.stream and (now := time.monotonic()) - job.told >= PIECE_SECONDS and (text := job.transcript.new_text()):
            job.told = now
            job.on_event(Piece.of(text, job.logprobs.told_with(text)) if job.logprobs else text)
        return False

    def _result(self, job: Job, reason: str) -> Result:
        self._answer_seconds += (time.monotonic() - job.started - self._answer_seconds) / 8
        rest = job.transcript.new_text(final=True)
        reason = "stop" if job.transcript.stopped else reason
        confidence = math.exp(min(0.0, job.log_probability / len(job.tokens)))
        counts = len(job.prompt), len(job.tokens)
        sure, text = confidence > self.threshold, job.transcript.text
        logprobs = job.logprobs and job.logprobs.of(text, job.transcript.stopped)
        return Result(text, job.adapter.name, confidence, sure, reason, *counts, rest, logprobs)


def load_engine() -> Engine:
    """The engine for the configured base model: 4 or 8 bits on a CPU with a compiler, bf16 on a GPU.

    Raises CouncilError where the model cannot be read or is of a family that the embedded engine does not run.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would fill the log of a server
    started, source = time.monotonic(), base_model_path()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)  # the worker alone has a team of threads, see Engine._work
    sys.setswitchinterval(5e-4)  # who only moves a pointer, or passes text on, waits for no thread longer than this (s)
    try:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, use_safetensors=True).to(device)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CouncilError(f"BASE_MODEL={source}: {str(error).splitlines()[0]}") from error
    decoder = make_decoder(model)
    engine = Engine(decoder, tokenizer, end_tokens(model, tokenizer))
    kind, seconds = type(decoder).__name__, time.monotonic() - started
    log.info("engine: %s on %s with %s in %.1f s", base_model_name(), device, kind, seconds)
    return engine


def make_decoder(model) -> Decoder:
    """The quickest decoder for the model, its device and what is installed here."""
    if model.device.type == "cpu" and (library := load_library(get_settings().models_path)):
        return NativeDecoder(model, library)
    return TorchDecoder(model, model.dtype)


def _stand_back() -> None:
    """Make this thread leave the cores to those who answer: it may not start a team, and is nicer than they are.

    A thread of its own, since what has lowered its priority may not raise it again.
    """
    torch.set_num_threads(1)  # see Engine._work
    if sys.platform == "linux":  # elsewhere priorities belong to processes
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ASIDE)


def end_tokens(model, tokenizer) -> set[int]:
    """The tokens that end an answer, from the model's generation settings and its tokenizer."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return {token for token in [*ends, tokenizer.eos_token_id] if token is not None}
