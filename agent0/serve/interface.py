"""What the server asks of an engine, and the words both use; the engines are `engine` (embedded) and `upstream`.

Nothing here needs torch, so that a server in front of another one starts without it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent0.serve.routing import STABLE, Named, Router


class QueueFull(Exception):
    """More requests wait than the server can answer in reasonable time; `seconds` from now there may be room."""

    def __init__(self, message: str, seconds: int = 1):
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Result:
    """A finished answer. confidence is the geometric mean of its tokens' probabilities, None where nobody tells them.

    An answer without a confidence counts as a success until feedback or the harvest says otherwise.
    """

    text: str
    adapter: str
    confidence: float | None
    success: bool
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    new_text: str = ""  # what a stream has not shown yet
    logprobs: list[dict] | None = None  # of all tokens, in OpenAI's form, where they were asked for


OnEvent = Callable[[str | Result | Exception], None]


class Job(Protocol):
    """One request on its way. Its engine gives on_event pieces of text (if `stream`), then a Result or an error."""

    adapter: Named

    def cancel(self) -> None:
        """Nobody waits any more: give up what the request holds."""


class Engine(Protocol):
    """What answers. `submit` from any thread; `close` finishes what has begun."""

    kind: str  # as /health says it
    model: str  # the base model's name as users see it
    router: Router

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
        """Start a request; `key` is the user or request that a canary's share goes by.

        `logprobs` asks for the tokens' log-probabilities, each with so many of the most probable ones.

        Raises UnknownAdapter, QueueFull, or ValueError for messages that cannot be a prompt.
        """

    def load(self, name: str, folder: Path) -> None:
        """Take in an adapter beside what serves. Raises ValueError with the reason; then nothing has changed."""

    def unload(self, name: str) -> None:
        """Let go of an adapter. Raises UnknownAdapter, or ValueError if it serves."""

    def trouble(self) -> str | None:
        """Why no request can be answered now; None where all is well."""

    def quiet_for(self) -> float:
        """Seconds since the last request was at work; 0 while one is."""

    def close(self) -> None:
        """Take no more requests, and finish those that came in."""
