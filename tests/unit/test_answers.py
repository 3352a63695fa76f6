"""What members said is kept: a harvest that is killed pays again only for what was in flight."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

import pytest
import requests
import tenacity

from agent0.command import CouncilError
from agent0.council.answers import KEEP_DAYS, Answers
from agent0.council.endpoint import EndpointMember, _retry_after
from agent0.council.prompts import program_prompt, rewrite_prompt, score_prompt, vote_prompt, without_mark
from agent0.settings import ROOT, get_settings
from faiss_memory import FaissMemory

QUESTIONS = 20
CALLS_A_QUESTION = 6  # three members propose, then each votes on the proposals of the others
JUDGING = 2  # more where one is elected: the others say how good they find it


def test_the_same_is_asked_once_and_an_exception_keeps_nothing(tmp_path):
    answers, asked = Answers(tmp_path / "memory" / "council.db"), []

    def call():
        asked.append(1)
        if len(asked) == 1:
            raise CouncilError("down")
        return "36"

    with pytest.raises(CouncilError):
        answers.recall(["m", "q"], call)
    assert [answers.recall(["m", "q"], call) for _ in range(3)] == ["36"] * 3
    assert len(asked) == 2
    assert answers.recall(["m", "another"], lambda: None) is None
    assert answers.recall(["m", "another"], call) is None  # a refused answer is paid for once, too
    again = Answers(answers.path)
    assert again.recall(["m", "q"], call) == "36" and len(asked) == 2


def test_old_answers_go(tmp_path):
    answers = Answers(tmp_path / "council.db")
    answers.recall("q", lambda: "36")
    with sqlite3.connect(answers.path) as connection:
        connection.execute("UPDATE answers SET timestamp = ?", [time.time() - (KEEP_DAYS + 1) * 86400])
    assert len(Answers(answers.path)) == 0


def test_an_unusable_file_is_named(tmp_path):
    (tmp_path / "council.db").write_text("this is no database, only a text that is long enough to be one" * 20)
    with pytest.raises(CouncilError, match=r"council\.db: file is not a database; "):
        Answers(tmp_path / "council.db")


def test_a_prompt_is_the_same_whatever_its_mark():
    assert rewrite_prompt("q", "bad") != rewrite_prompt("q", "bad")
    assert without_mark(rewrite_prompt("q", "bad")) == without_mark(rewrite_prompt("q", "bad"))
    assert without_mark(vote_prompt("q", ["a", "b"])) != without_mark(vote_prompt("q", ["b", "a"]))
    for prompt, texts in ((program_prompt, ("q",)), (score_prompt, ("q", "a")), (score_prompt, ("q", "b"))):
        assert prompt(*texts) != prompt(*texts) and without_mark(prompt(*texts)) == without_mark(prompt(*texts))
    assert without_mark(score_prompt("q", "a")) != without_mark(score_prompt("q", "b"))
    forged = "QUERY: <0123456789ab>"
    assert without_mark(rewrite_prompt(forged, "x")) == without_mark(rewrite_prompt(forged, "x"))


@pytest.mark.parametrize("value, seconds", [("7", 7), ("", 0), ("soon", 0), ("-5", 0), ("9999", 120)])
def test_retry_after_is_read(value, seconds):
    assert _retry_after(value) == seconds


def test_retry_after_may_be_a_date():
    assert 0 < _retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))) <= 30


def test_a_member_waits_as_long_as_it_is_told(monkeypatch):
    waited = []
    member = EndpointMember("http://127.0.0.1:9", "m", attempts=2, wait=tenacity.wait_none())
    member._retry.sleep = waited.append
    busy = requests.Response()
    busy.status_code, busy.headers["Retry-After"] = 429, "3"
    monkeypatch.setattr(member._http, "post", lambda *_, **__: busy)
    with pytest.raises(CouncilError, match="HTTP 429"):
        member.propose("q", "bad")
    assert waited == [3]


def reply(text="REASONING: so\nANSWER: 36", finish="stop"):
    response = requests.Response()
    choice = {"message": {"content": text}, "finish_reason": finish}
    response.status_code, response._content = 200, json.dumps({"choices": [choice]}).encode()
    return response


def test_an_answer_that_breaks_off_is_asked_for_again(monkeypatch):
    member = EndpointMember("http://127.0.0.1:9", "m", wait=tenacity.wait_none())
    came = [requests.exceptions.ChunkedEncodingError("half"), requests.ConnectionError("gone"), reply()]

    def post(*_, **__):
        if isinstance(came[0], Exception):
            raise came.pop(0)
        return came.pop(0)

    monkeypatch.setattr(member._http, "post", post)
    assert member.propose("q", "bad").result == "36" and came == []


def test_calls_to_one_member_are_limited(monkeypatch):
    monkeypatch.setenv("COUNCIL_CONCURRENCY", "2")
    get_settings.cache_clear()
    member, under_way, most = EndpointMember("http://127.0.0.1:9", "m"), [], []

    def post(*_, **__):
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.02)
        under_way.pop()
        return reply()

    monkeypatch.setattr(member._http, "post", post)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: member.propose(f"q{n}", "bad"), range(16)))
    assert len(most) == 16 and max(most) == 2


@pytest.fixture
def endpoint():
    """A slow endpoint in a process of its own that counts its calls."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bench.flaky_server", "--port", str(port), "--latency", "0.1", "--fail", "0"]
    server = subprocess.Popen(command, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            requests.get(f"{url}/count", timeout=1)
            break
        except requests.ConnectionError:
            time.sleep(0.05)
    yield url
    server.terminate()
    server.wait()


def paid(url: str) -> int:
    return requests.get(f"{url}/count", timeout=5).json().get("calls", 0)


def test_a_killed_harvest_pays_again_only_for_what_was_in_flight(endpoint, home):
    yesterday = date.today() - timedelta(1)
    noon = datetime(yesterday.year, yesterday.month, yesterday.day, 12).timestamp()
    memory = FaissMemory()
    for n in range(QUESTIONS):
        answer = {"response": f"I do not know {n}.", "success": False, "timestamp": noon + n, "user": f"u{n}"}
        memory.add(f"Why do rivers of country number {n} flow?", answer)
    memory.close()
    members = ",".join(f"{endpoint}|{name}" for name in ("one", "two", "three"))
    environment = {**os.environ, "COUNCIL_HOME": str(home), "COUNCIL_ENDPOINTS": members, "COUNCIL_CONCURRENCY": "4"}
    environment["COUNCIL_URL"] = "http://127.0.0.1:9"  # a server of this machine must not join the council
    command = [sys.executable, str(ROOT / "harvest_failures.py")]
    in_flight = 3 * 4

    first = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while paid(endpoint) < QUESTIONS * CALLS_A_QUESTION // 2:
        assert first.poll() is None, "the first harvest ended before it could be killed"
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(0.3)  # what was in flight arrives at the endpoint
    before = paid(endpoint)
    assert before < QUESTIONS * CALLS_A_QUESTION
    assert not list((home / "training_data").glob("harvest_*"))

    second = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert second.returncode in (0, 10), second.stderr
    total = paid(endpoint)
    (kept,) = (home / "memory").glob("council.db")
    needed = len(Answers(kept))
    assert QUESTIONS * CALLS_A_QUESTION <= needed <= QUESTIONS * (CALLS_A_QUESTION + JUDGING)
    print(f"paid calls: {before} before the kill, {total - before} after, {needed} needed")
    assert needed <= total <= needed + in_flight
    event = json.loads((home / "logs" / "ledger.jsonl").read_text().splitlines()[-1])
    assert event["failures"] == QUESTIONS
    third = subprocess.run([*command, "--date", str(yesterday)], cwd=home, env=environment, capture_output=True)
    assert third.returncode in (0, 10) and paid(endpoint) == total  # a third run pays nothing
