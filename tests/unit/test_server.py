"""The Council server over HTTP: a live uvicorn, the real openai client, our own client, and broken requests."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import torch
from scripted_engine import kept, wait_for
from server_kit import ASK, live_council, post
from tiny_council import make_model

from agent0.client import ServerError
from agent0.command import CouncilError
from agent0.serve.keeper import Keeper


@pytest.fixture
def council(home, monkeypatch):
    with live_council(home, monkeypatch) as running:
        yield running


def test_the_openai_client_works_unchanged_and_the_answer_is_remembered(council):
    answer = council.openai.chat.completions.create(model="council", user="ann", **ASK)
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 12 and answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    record = kept(council, answer.id)
    assert record["query"] == "What is 2 + 2?" and record["response"] == choice.message.content
    assert (record["adapter"], record["user"], record["model"]) == ("base", "ann", "tiny")
    assert record["confidence"] == answer.council["confidence"] and record["latency_ms"] > 0
    assert record["success"] == answer.council["success"] == (record["confidence"] > 0.7)


@pytest.fixture
def each_token_goes_out(monkeypatch):
    monkeypatch.setattr("agent0.serve.engine.PIECE_SECONDS", 0)


@pytest.mark.usefixtures("each_token_goes_out")
def test_a_stream_gives_the_same_answer_in_pieces(council):
    whole = council.openai.chat.completions.create(model="council", **ASK)
    stream = council.openai.chat.completions.create(
        model="council", stream=True, stream_options={"include_usage": True}, **ASK
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 3
    assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason == "length"
    assert kept(council, chunks[0].id)["response"] == whole.choices[0].message.content


def test_log_probabilities_are_those_of_the_model(council):
    """Against transformers, at each place of the answer; the hottest sampling changes what is chosen, not these."""
    how = {"logprobs": True, "top_logprobs": 4, "temperature": 2, "seed": 3}
    choice = council.openai.chat.completions.create(model="council", **how, **ASK).choices[0]
    prompter, entries = council.engine.prompter, choice.logprobs.content
    ids, prompt = {prompter.token_bytes(id): id for id in range(258)}, prompter.encode(ASK["messages"])
    tokens = [ids[bytes(entry.bytes)] for entry in entries]
    with torch.no_grad():
        logits = make_model()(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    values, best = logits.log_softmax(-1).topk(4)
    for at, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(logits[at].log_softmax(-1)[tokens[at]].item(), abs=1e-4)
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(values[at].tolist(), abs=1e-4)
        assert [bytes(top.bytes) for top in entry.top_logprobs] == [*map(prompter.token_bytes, best[at].tolist())]
    assert len(entries) == 12 and choice.logprobs.refusal is None
    assert b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace") == choice.message.content


@pytest.mark.usefixtures("each_token_goes_out")
def test_log_probabilities_come_with_the_pieces_of_a_stream(council):
    ask = {"model": "council", "logprobs": True, "store": False, **ASK}
    for stop in (None, "zzz"):
        whole = council.openai.chat.completions.create(stop=stop, **ask).choices[0]
        chunks = list(council.openai.chat.completions.create(stop=stop, stream=True, **ask))
        told = [entry for chunk in chunks if (found := chunk.choices[0].logprobs) for entry in found.content]
        assert told == whole.logprobs.content and len(told) == 12
        assert all(not entry.top_logprobs for entry in told)
        assert sum(bool(chunk.choices[0].logprobs) for chunk in chunks) > 3


def test_a_stop_string_has_no_log_probabilities(council):
    ask = {"model": "council", "logprobs": True, "store": False, "max_tokens": 30, **ASK}
    said = council.openai.chat.completions.create(**ask).choices[0].message.content
    place = next(at for at in range(4, 20) if said[at : at + 2].isascii())
    for stream in (False, True):
        answer = post(council, stream=stream, stop=said[place : place + 2], **ask)
        lines = [line[6:] for line in answer.text.split("\n\n")[:-2]] if stream else [answer.text]
        choices = [json.loads(line)["choices"][0] for line in lines]
        told = [bytes(e["bytes"]) for choice in choices for e in (choice["logprobs"] or {"content": []})["content"]]
        assert b"".join(told).decode(errors="replace") == said[: said.index(said[place : place + 2])]


def test_a_stream_ends_as_openai_ends_it(council):
    lines = [line for line in post(council, stream=True, **ASK).text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert "usage" not in json.loads(lines[-2][6:])


def test_a_probe_is_answered_and_counted_but_not_remembered(council):
    council.openai.chat.completions.create(model="council", store=False, **ASK)
    assert len(council.memory.meta) == 0
    figures = council.client.metrics()
    assert 'autogen_requests_total{adapter="base",origin="probe"} 1.0' in figures
    assert "autogen_training_completed_total 0.0" in figures


def test_models_and_health(council):
    assert [model.id for model in council.openai.models.list()] == ["council", "base"]
    health = council.client.health()
    assert health.pop("uptime_seconds") >= 0
    expected = {"status": "healthy", "model": "tiny", "adapter": "base", "engine": "embedded", "adapters": ["base"]}
    assert health == {**expected, "canary": None, "share": 0, "shadow": None}


def test_our_client_asks_many(council):
    replies = council.client.ask_many(["one", "two", "three"], clients=3, store=False, max_tokens=5)
    assert [reply.truncated for reply in replies] == [True] * 3


BAD = {
    "no messages": ({"messages": []}, "messages"),
    "no question": ({"messages": [{"role": "system", "content": "Be kind"}]}, "messages"),
    "role": ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content",
    ),
    "temperature": ({**ASK, "temperature": 3}, "temperature"),
    "max_tokens": ({**ASK, "max_tokens": 0}, "max_tokens"),
    "n": ({**ASK, "n": 17}, "n"),
    "penalty": ({**ASK, "frequency_penalty": 0.5}, "frequency_penalty"),
    "tools": ({**ASK, "tools": [{"type": "function"}]}, "tools"),
    "too long": ({"messages": [{"role": "user", "content": "x" * 500}]}, "messages"),
    "top_logprobs alone": ({**ASK, "top_logprobs": 3}, "top_logprobs"),
    "too many top_logprobs": ({**ASK, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "stop": ({**ASK, "stop": [""]}, "stop"),
    "surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_by_the_name_of_its_field(case, council):
    body, field = BAD[case]
    response = httpx.post(council.url + "/v1/chat/completions", content=json.dumps(body), headers=JSON)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"].startswith(field) and field.split(".")[0] in error["message"] + error["param"]


JSON = {"Content-Type": "application/json"}


def test_other_errors_have_the_same_form(council):
    for body in (b"{", b"[]", b'{"messages": NaN}'):
        response = httpx.post(council.url + "/v1/chat/completions", content=body, headers=JSON)
        assert response.status_code == 400 and response.json()["error"]["message"]
    assert httpx.get(council.url + "/nowhere").json()["error"]["type"] == "not_found_error"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        council.openai.chat.completions.create(model="gpt-9", **ASK)


def test_feedback_reaches_memory(council):
    reply = council.client.ask("What is 2 + 2?")
    council.client.feedback(reply.id, success=False, correction="4")
    record = council.memory.get(reply.id)
    assert record["success"] is False and record["feedback"]["correction"] == "4"
    assert post(council, "/v1/feedback", id=reply.id).status_code == 400
    assert post(council, "/v1/feedback", id=reply.id, score=2).status_code == 400
    assert post(council, "/v1/feedback", id="unknown", success=True).status_code == 404


def test_an_answer_is_given_even_when_memory_fails(council, monkeypatch):
    monkeypatch.setattr(council.memory, "add", lambda *_: (_ for _ in ()).throw(CouncilError("disk full")))
    assert council.client.ask("Hello").text


@pytest.fixture
def stuck_disk(council, monkeypatch):
    """Writes to memory wait until the event is set."""
    add, go = council.memory.add, threading.Event()
    monkeypatch.setattr(council.memory, "add", lambda *a: go.wait(30) and add(*a))
    yield go
    go.set()


@pytest.mark.parametrize("stream", [True, False])
def test_a_slow_disk_delays_no_answer_and_feedback_waits_for_it(council, stuck_disk, stream):
    told = post(council, stream=stream, **ASK).text
    id = json.loads(told.split("\n\n")[0].removeprefix("data: "))["id"]
    assert council.memory.get(id) is None and post(council, "/v1/feedback", id="x", score=1).status_code == 404
    with ThreadPoolExecutor() as pool:
        feedback = pool.submit(post, council, "/v1/feedback", id=id, success=False)
        time.sleep(0.1)
        assert not feedback.done()
        stuck_disk.set()
        assert feedback.result().status_code == 200
    assert council.memory.get(id)["feedback"]["success"] is False


def test_what_waits_for_the_disk_is_bounded_and_written_at_the_end(council, stuck_disk, monkeypatch, caplog):
    monkeypatch.setattr("agent0.serve.keeper.MOST", 2)
    keeper = Keeper(council.memory)
    for id in ("one", "two", "three"):
        keeper.keep("How?", {"id": id, "response": "So.", "success": True})
    assert "three was given but is not kept" in caplog.text
    threading.Timer(0.1, stuck_disk.set).start()
    keeper.close()
    assert {record["id"] for record in council.memory.meta} == {"one", "two"}


def test_several_choices_differ_and_come_again_by_their_seed(council):
    ask = {"temperature": 1.5, "seed": 7, "max_tokens": 9, **ASK}
    answer = council.openai.chat.completions.create(model="council", n=3, **ask)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    again = council.openai.chat.completions.create(model="council", n=2, store=False, **ask)
    alone = council.openai.chat.completions.create(model="council", store=False, **ask)
    assert [choice.message.content for choice in again.choices] == texts[:2]
    assert alone.choices[0].message.content == texts[0]
    assert answer.usage.completion_tokens == 27 and answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert kept(council, answer.id)["response"] == texts[0] and len(council.memory.meta) == 1
    assert 'autogen_requests_total{adapter="base",origin="user"} 1.0' in council.client.metrics()


def test_several_choices_stream_under_their_own_numbers(council):
    ask = {"model": "council", "temperature": 1.5, "seed": 7, "n": 3, **ASK}
    whole = council.openai.chat.completions.create(**ask)
    pieces, ends = {0: "", 1: "", 2: ""}, {}
    for chunk in council.openai.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ask):
        for choice in chunk.choices:
            pieces[choice.index] += choice.delta.content or ""
            ends |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
    assert pieces == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == dict.fromkeys(range(3), "length") and chunk.usage == whole.usage


def test_choices_that_find_no_room_leave_nothing_behind(council, monkeypatch):
    monkeypatch.setattr("agent0.serve.engine.WAITING_PER_SLOT", 1)
    slow(council, monkeypatch)
    response = post(council, n=16, **ASK)
    assert response.status_code == 429 and 1 <= int(response.headers["Retry-After"]) <= 60
    wait_for(lambda: not council.engine._active and not council.engine._waiting)
    assert post(council, **ASK).status_code == 200


def test_who_hung_up_while_waiting_takes_no_place(council, monkeypatch):
    monkeypatch.setattr("agent0.serve.engine.WAITING_PER_SLOT", 1)
    slow(council, monkeypatch)
    jobs = [council.engine.submit(ASK["messages"], lambda _: None, max_tokens=150) for _ in range(4)]
    wait_for(lambda: len(council.engine._active) == 4)
    waiting = [council.engine.submit(ASK["messages"], lambda _: None) for _ in range(4)]
    assert post(council, **ASK).status_code == 429
    waiting[0].cancel()
    threading.Timer(0.3, lambda: [job.cancel() for job in (*jobs, *waiting)]).start()
    assert post(council, **ASK).status_code == 200


def test_too_many_requests_get_429_and_when_to_come_back(council, monkeypatch):
    monkeypatch.setattr("agent0.serve.engine.WAITING_PER_SLOT", 0)
    response = post(council, **ASK)
    assert response.status_code == 429 and response.headers["Retry-After"] == "1"
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_health_and_metrics_answer_while_the_engine_works(council, monkeypatch):
    forward, go = council.engine.decoder.forward, threading.Event()
    monkeypatch.setattr(council.engine.decoder, "forward", lambda spans: go.wait(30) and forward(spans))
    asking = threading.Thread(target=council.client.ask, args=("Hello",))
    asking.start()
    wait_for(lambda: council.engine._active)
    assert council.client.health()["status"] == "healthy" and "autogen_training_loss" in council.client.metrics()
    assert asking.is_alive()
    go.set()
    asking.join()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_slot(council, monkeypatch, stream):
    slow(council, monkeypatch)
    jobs, submit = [], council.engine.submit
    monkeypatch.setattr(council.engine, "submit", lambda *a, **k: jobs.append(submit(*a, **k)) or jobs[-1])
    with contextlib.suppress(httpx.TimeoutException), httpx.Client(timeout=0.5) as client:
        body = {**ASK, "max_tokens": 180, "stream": stream}
        with client.stream("POST", council.url + "/v1/chat/completions", json=body) as response:
            next(response.iter_lines())
    wait_for(lambda: jobs[0].cancelled and not council.engine._active)
    assert len(jobs[0].tokens) < jobs[0].max_tokens and jobs[0].sequence is None
    assert len(council.memory.meta) == 0


def slow(council, monkeypatch, seconds=0.02):
    forward = council.engine.decoder.forward

    def slowly(spans):
        time.sleep(seconds)
        return forward(spans)

    monkeypatch.setattr(council.engine.decoder, "forward", slowly)


def test_an_engine_failure_is_told_whole_and_streamed(council, monkeypatch):
    monkeypatch.setattr(council.engine.decoder, "forward", lambda spans: 1 / 0)
    with pytest.raises(ServerError, match="500"):
        council.client.ask("Hello")
    with pytest.raises(openai.APIError, match="engine failed"):
        list(council.openai.chat.completions.create(model="council", stream=True, **ASK))
    assert 'autogen_requests_total{adapter="base",origin="user"} 2.0' in council.client.metrics()
