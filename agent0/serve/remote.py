"""HTTP calls to one OpenAI-compatible server; what goes wrong there becomes the ApiError that our client gets."""

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from urllib.parse import urlsplit

from agent0 import outbound
from agent0.command import USAGE, CouncilError
from agent0.serve.errors import ApiError
from agent0.settings import get_settings

MODELS_SECONDS = 5  # for the list of models, which tells that the server is there
_READ_AT_MOST = 1 << 20  # bytes of one event or error


class Unknown(Exception):
    """HTTP 404: the server does not know the model, or not the endpoint."""


@dataclass(frozen=True)
class Piece:
    """One event of an answer: its text, OpenAI's `logprobs` of its tokens, why it ended, how many tokens it used."""

    text: str
    logprobs: list[dict]
    finish_reason: str | None
    usage: dict


class Remote:
    """The server at `url`, with or without /v1. Safe to use from any thread; each call has its own connection.

    Each call raises ApiError: 502 the server failed, 503 nobody answers, 504 it said nothing for UPSTREAM_TIMEOUT.
    """

    def __init__(self, url: str):
        settings = get_settings()
        self.url, self._timeout = url.rstrip("/").removesuffix("/v1"), settings.upstream_timeout
        key = settings.upstream_api_key
        authorization = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        self._headers = {"Content-Type": "application/json", "Connection": "close", **authorization}

    def models(self) -> list[dict]:
        """The models that it serves, each with an `id`; vLLM's adapters have a `parent`, and a `root` (folder)."""
        with self._call("GET", "/v1/models", timeout=min(self._timeout, MODELS_SECONDS)) as response:
            if response.status != 200:
                raise _refusal(response)
            return [{**card, "id": str(card["id"])} for card in json.loads(response.read())["data"]]

    def change_adapter(self, what: str, body: dict) -> tuple[int, str]:
        """Ask vLLM to `load` or `unload` an adapter; return the HTTP status and what it says."""
        with self._call("POST", f"/v1/{what}_lora_adapter", body) as response:
            return response.status, _message(response)

    def base_model(self) -> str:
        """The one base model that it lists. Raises CouncilError (exit 2) where there are more, or none."""
        names = [card["id"] for card in self.models() if not card.get("parent")]
        if len(names) != 1:
            listed = ", ".join(names[:5]) or "none"
            raise CouncilError(f"{self.url} serves these models: {listed}; set UPSTREAM_MODEL to the base model", USAGE)
        return names[0]

    def chat(self, body: dict, hold: Callable[[socket.socket], None]) -> Iterator[Piece]:
        """Yield a streamed answer; `hold` gets the socket, by which to break it off.

        Raises Unknown for a model that is not there, and ApiError 400 or 429 where the request is refused.
        """
        with self._call("POST", "/v1/chat/completions", body, hold=hold) as response:
            if response.status != 200:
                raise _refusal(response)
            while line := response.readline(_READ_AT_MOST):
                data = line.removeprefix(b"data:").strip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield _piece(json.loads(data))

    @contextlib.contextmanager
    def _call(self, method, path, body=None, *, timeout=None, hold=lambda _: None) -> Iterator[HTTPResponse]:
        timeout = timeout or self._timeout
        try:
            with contextlib.closing(outbound.connect(self.url, timeout)) as connection:
                hold(connection.sock)
                data = json.dumps(body).encode() if body else None
                connection.request(method, urlsplit(self.url).path + path, data, self._headers)
                with connection.getresponse() as response:
                    yield response
        except TimeoutError:
            raise ApiError(504, f"the upstream said nothing for {timeout:g} s; see its log") from None
        except (ConnectionRefusedError, socket.gaierror, outbound.Forbidden) as error:
            raise ApiError(503, f"the upstream is not there ({error}); start it") from None
        except (OSError, HTTPException) as error:
            raise ApiError(502, f"the upstream broke the connection ({type(error).__name__}); see its log") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            kind = type(error).__name__  # its text may hold the key: http.client quotes a header that it does not send
            raise ApiError(502, f"the upstream does not answer in OpenAI's form ({kind}); check its URL") from None


def _piece(event: dict) -> Piece:
    if "error" in event:
        raise ApiError(502, f"the upstream failed in mid-answer: {_reason(event)}")
    choice = (event.get("choices") or [{}])[0]
    text = (choice.get("delta") or {}).get("content") or ""
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return Piece(
        text,
        [{**token, "logprob": float(token["logprob"])} for token in tokens],
        choice.get("finish_reason"),
        event.get("usage") or {},
    )


def _refusal(response: HTTPResponse) -> Exception:
    """What an HTTP status other than 200 means to who asked us. A 401's body may echo the key: it is not told."""
    status = response.status
    if status in (401, 403):
        return ApiError(502, f"the upstream refuses us (HTTP {status}); set UPSTREAM_API_KEY to a key that it takes")
    reason = _message(response)
    if status == 404:
        return Unknown(reason)
    if status == 429:
        after = response.getheader("Retry-After") or "1"
        return ApiError(429, f"the upstream has too many requests: {reason}", code="queue_full", after=after)
    if status in (400, 413, 422):
        return ApiError(400, f"the upstream refuses the request: {reason}", "messages")
    return ApiError(503 if status == 503 else 502, f"the upstream answers HTTP {status}: {reason}")


def _message(response: HTTPResponse) -> str:
    text = response.read(_READ_AT_MOST).decode(errors="replace")
    try:
        return _reason(json.loads(text))
    except ValueError:
        return _one_line(text)


def _reason(body: object) -> str:
    """The message in an error's JSON, as OpenAI, vLLM (old and new) and FastAPI write it."""
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            return _reason(body[key])
    return _one_line(body if isinstance(body, str) else json.dumps(body))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()[:300] or "no reason given"
