"""A small client of the Council server, or of any OpenAI-compatible one with vLLM's LoRA endpoints."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import requests
from tqdm import tqdm

from agent0.command import CouncilError
from agent0.settings import get_settings

FULL = 429


@dataclass(frozen=True)
class Reply:
    """What the server answered: text, seconds of wall time it took, its length in tokens, and the id for feedback."""

    id: str
    text: str
    seconds: float
    truncated: bool
    tokens: int = 0  # 0 where the server does not say


class ServerError(CouncilError):
    """The server is down or hung (`status` None), or answered with an HTTP error (its `status`)."""

    def __init__(self, message: str, status: int | None = None):
        super().__init__(message)
        self.status = status


class CouncilClient:
    """HTTP calls to one server; safe to share between threads. Each call raises ServerError on failure."""

    def __init__(self, url: str | None = None, timeout: float = 60):
        settings = get_settings()
        self.url, self.timeout = (url or settings.council_url).rstrip("/"), timeout
        self.session = requests.Session()
        self.session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=64))
        self.session.trust_env = False  # a proxy variable must not carry loopback traffic away
        if settings.council_api_key:
            self.session.headers["Authorization"] = f"Bearer {settings.council_api_key.get_secret_value()}"

    def health(self) -> dict:
        return self._call("GET", "/health", timeout=10).json()

    def metrics(self) -> str:
        return self._call("GET", "/metrics", timeout=10).text

    def ask(self, question: str, model: str | None = None, *, store: bool = True, **options) -> Reply:
        """Ask one question. `model` names an adapter (None: what serves); store=False keeps it out of memory."""
        body = {"messages": [{"role": "user", "content": question}], "store": store, **options}
        body["model"] = model or "council"
        response = self._call("POST", "/v1/chat/completions", json=body)
        answer = response.json()
        choice = answer["choices"][0]
        return Reply(
            answer["id"],
            choice["message"]["content"] or "",
            response.elapsed.total_seconds(),  # of the request that was taken
            choice["finish_reason"] == "length",
            (answer.get("usage") or {}).get("completion_tokens", 0),
        )

    def log_probabilities(self, prompt: str, model: str, tokens: int, alternatives: int) -> list[dict]:
        """The first tokens of the greedy answer, each {token, logprob, top_logprobs} as in OpenAI's API.

        Raises ServerError for a server that tells none.
        """
        body = {"messages": [{"role": "user", "content": prompt}], "model": model, "store": False, "temperature": 0}
        body |= {"max_tokens": tokens, "logprobs": True, "top_logprobs": alternatives}
        found = self._call("POST", "/v1/chat/completions", json=body).json()["choices"][0].get("logprobs")
        if not found:
            raise ServerError(f"{self.url}: {model} tells no log-probabilities (`logprobs`)")
        return found["content"] or []

    def ask_many(self, questions: Iterable[str], *, clients: int = 8, title: str = "asking", **options) -> list[Reply]:
        """Ask all questions, `clients` at a time, with a progress bar; replies come in the questions' order."""
        questions = list(questions)
        with ThreadPoolExecutor(clients) as pool:
            replies = pool.map(lambda question: self.ask(question, **options), questions)
            return list(tqdm(replies, title, len(questions), unit="answer", disable=None))

    def feedback(self, answer_id: str, **verdict) -> None:
        self._call("POST", "/v1/feedback", json={"id": answer_id, **verdict})

    def load_adapter(self, name: str, path: str) -> None:
        self._call("POST", "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        self._call("POST", "/v1/unload_lora_adapter", json={"lora_name": name})

    def route(self, stable: str, canary: str | None = None, share: float = 0, shadow: str | None = None) -> dict:
        """Make `stable` the adapter that answers requests which name none, but for the `canary`'s share (0 to 1).

        `shadow` answers copies of what others answer, unseen.
        """
        more = {"canary": canary, "share": share, "shadow": shadow} if canary or shadow else {}
        return self._call("POST", "/v1/route", json={"stable": stable, **more}).json()

    def _call(self, method: str, path: str, timeout: float | None = None, **arguments) -> requests.Response:
        """Send a request; where the server is full, come back when it says, within the time-out."""
        timeout = timeout or self.timeout
        send = partial(self.session.request, method, self.url + path, timeout=timeout, **arguments)
        until = time.monotonic() + timeout
        try:
            response = send()
            while response.status_code == FULL and time.monotonic() + (wait := _retry_after(response)) < until:
                time.sleep(wait)
                response = send()
        except requests.RequestException as error:
            reason = type(error).__name__
            raise ServerError(f"{self.url}{path}: no answer ({reason}); start the server with `make serve`") from None
        if not response.ok:
            message = f"{self.url}{path}: HTTP {response.status_code}: {response.text[:300].strip()}"
            raise ServerError(message, response.status_code)
        return response


def _retry_after(response: requests.Response) -> float:
    """Seconds that a full server asks to wait; 1 where it does not say."""
    told = response.headers.get("Retry-After", "")
    return float(told) if told.isdigit() else 1.0
