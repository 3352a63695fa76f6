"""A council member behind any OpenAI-compatible endpoint."""

import os
import re
import threading
import time
import tomllib
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
import tenacity

from agent0 import outbound
from agent0.agreement import final_answer
from agent0.command import USAGE, CouncilError, log
from agent0.council.answers import Answers
from agent0.council.program import checkable, program_agrees
from agent0.council.prompts import (
    program_prompt,
    read_program,
    read_rewrite,
    read_score,
    read_vote,
    rewrite_prompt,
    score_prompt,
    vote_prompt,
    without_mark,
)
from agent0.council.sandbox import isolates
from agent0.records import Rewrite
from agent0.settings import get_settings

_WAIT = tenacity.wait_random_exponential(multiplier=0.5, max=20)
_LONGEST_WAIT = 120  # seconds, however long Retry-After says
_BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class _Busy(Exception):
    """An answer worth waiting for: 429, 5xx, a timeout, a dropped connection. `after` is what Retry-After asks for."""

    def __init__(self, reason: str, after: float = 0):
        super().__init__(reason)
        self.after = after


class EndpointMember:
    """Proposes and votes through POST <url>/chat/completions; `key` is sent as a bearer token where given.

    At most COUNCIL_CONCURRENCY calls are under way at a time. With `answers`, nothing is paid for twice.
    """

    costly = True

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        attempts: int = 4,
        wait=_WAIT,
        answers: Answers | None = None,
    ):
        url = url.rstrip("/")
        self.url = f"{url if url.endswith('/v1') else url + '/v1'}/chat/completions"
        self.name, self.model = f"{model}@{url.partition('://')[2].partition('/')[0]}", model
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._answers = answers
        self._free = threading.BoundedSemaphore(get_settings().council_concurrency)
        self._http = outbound.session(get_settings().council_concurrency)
        self._retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Busy),
            stop=tenacity.stop_after_attempt(attempts),
            wait=lambda state: max(wait(state), state.outcome.exception().after),
            reraise=True,
        )

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        """Return the endpoint's rewrite; None if it was cut off or does not keep to the form.

        Where the question is checkable, a program by the same endpoint whose result agrees is its proof.
        """
        reply = self._ask(rewrite_prompt(question, failed_response), temperature=0.2, max_tokens=1024)
        parsed = read_rewrite(reply) if reply else None
        if parsed is None:
            return None
        reasoning, answer = parsed
        rewrite = Rewrite(member=self.name, reasoning=reasoning, output=answer, result=final_answer(answer))
        printed = self._program_agrees(question, answer) if self.proves(question) else None
        if printed is None:
            return rewrite
        return rewrite.model_copy(update={"result": printed, "kind": "computed", "proof": f"program by {self.name}"})

    def proves(self, question: str) -> bool:
        """Whether a program could prove an answer to the question here."""
        return checkable(question) and isolates()

    def judge(self, question: str, answer: str) -> float | None:
        """Return how good the endpoint finds an answer, 0 to 1, or None."""
        reply = self._ask(score_prompt(question, answer), temperature=0, max_tokens=256)
        return read_score(reply) if reply else None

    def vote(self, question: str, candidates: Sequence[str]) -> int | None:
        reply = self._ask(vote_prompt(question, candidates), temperature=0, max_tokens=256)
        return read_vote(reply, len(candidates)) if reply else None

    def _program_agrees(self, question: str, answer: str) -> str | None:
        try:
            reply = self._ask(program_prompt(question), temperature=0, max_tokens=512)
        except CouncilError as error:  # the answer is there already: it stays a plain proposal
            log.info("council member %s: no program: %s", self.name, error)
            return None
        program = read_program(reply) if reply else None
        return program_agrees(program, question, answer) if program else None

    def _ask(self, prompt: str, **options) -> str | None:
        """Return the reply to a prompt, as it was kept where the same was asked before."""
        if self._answers is None:
            return self._call(prompt, **options)
        asked = [self.url, self.model, without_mark(prompt), options]
        return self._answers.recall(asked, lambda: self._call(prompt, **options))

    def _call(self, prompt: str, **options) -> str | None:
        """Return the reply's text, or None where it is empty or cut off at the length limit."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], **options}
        try:
            choice = self._retry(self._post, body)["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, ValueError):
            raise CouncilError(f"{self.name} does not answer in OpenAI's form; check its URL") from None
        except _Busy as error:
            raise CouncilError(f"{self.name} is not available: {error}") from None
        if finish == "length":
            log.info("council member %s: an answer was cut off and is not used", self.name)
            return None
        return text or None

    def _post(self, body: dict) -> dict:
        try:
            with self._free:
                response = self._http.post(
                    self.url,
                    json=body,
                    headers=self._headers,
                    timeout=get_settings().council_timeout,
                    allow_redirects=False,
                )
        except outbound.Forbidden as error:
            raise CouncilError(f"{self.name}: {error}") from None
        except _BROKEN as error:
            raise _Busy(type(error).__name__) from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _Busy(f"HTTP {response.status_code}", _retry_after(response.headers.get("Retry-After", "")))
        if response.status_code != 200:  # the body may echo the key or the question: it is not logged
            raise CouncilError(f"{self.name} refuses: HTTP {response.status_code}; check its model and key")
        return response.json()


def _retry_after(value: str) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 where it says nothing clear."""
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0
    return min(max(seconds, 0), _LONGEST_WAIT)


def endpoint_members() -> list[EndpointMember]:
    """Return a member for each entry of COUNCIL_ENDPOINTS and of council.toml.

    Raises CouncilError (exit 2) that names the entry which is not of that form, or the variable which is not set.
    """
    entries = [entry.strip() for entry in get_settings().council_endpoints.split(",") if entry.strip()]
    listed = [("COUNCIL_ENDPOINTS", entry) for entry in entries] + _listed_entries()
    answers = Answers(get_settings().memory_path / "council.db") if listed else None
    members = [_member(source, entry, answers) for source, entry in listed]
    names = [member.name for member in members]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise CouncilError(f"COUNCIL_ENDPOINTS names {twice} twice; a member has one vote: remove one", USAGE)
    return members


def _listed_entries() -> list[tuple[str, str]]:
    """Return each [[endpoint]] of council.toml (url, model, key_variable where it needs one) as (file, entry)."""
    path = get_settings().council_home / "council.toml"
    if not path.exists():
        return []
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CouncilError(f"{path}: {error}; correct it", USAGE) from None
    tables = listed.get("endpoint")
    if set(listed) - {"endpoint"} or not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise CouncilError(f"{path}: holds [[endpoint]] tables and nothing else; correct it", USAGE)
    return [(str(path), _entry(path, table)) for table in tables]


def _entry(path: Path, table: dict) -> str:
    wrong = [k for k, v in table.items() if k not in ("url", "model", "key_variable") or not isinstance(v, str)]
    if wrong:
        raise CouncilError(f"{path}: {wrong[0]} is not url, model or key_variable with a text; correct it", USAGE)
    return "|".join(table.get(key, "") for key in ("url", "model", "key_variable")).rstrip("|")


def _member(source: str, entry: str, answers: Answers | None) -> EndpointMember:
    url, model, variable = (*(part.strip() for part in entry.split("|")), "", "")[:3]
    if not url.startswith(("http://", "https://")) or not model or entry.count("|") > 2:
        raise CouncilError(f"{source}: an entry is not URL|model or URL|model|KEY_VARIABLE ({model})", USAGE)
    try:
        outbound.checked_host(url)
    except outbound.Forbidden as error:
        raise CouncilError(f"{source}: {error}", USAGE) from None
    key = os.environ.get(variable) if variable else None
    if variable and not key:
        variable = variable if re.fullmatch("[A-Z0-9_]+", variable) else f"{model}'s variable"  # it may be a key
        raise CouncilError(f"{source}: {variable} is not set; export it, or leave it out of the entry", USAGE)
    return EndpointMember(url, model, key, answers=answers)
