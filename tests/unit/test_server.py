"""The Council server over HTTP: a live uvicorn, the real openai client, our own client, and broken requests."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from lora_kit import ALL_LINEAR, make_release
from scripted_engine import kept, wait_for
from tiny_council import make_engine, make_model, save_base

from agent0 import adapters
from agent0.client import CouncilClient, ServerError
from agent0.command import REFUSED, CouncilError
from agent0.serve.__main__ import listen, serve_current
from agent0.serve.api import create_app
from agent0.serve.keeper import Keeper
from agent0.settings import ROOT, get_settings
from faiss_memory import FaissMemory

ASK = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}


@pytest.fixture
def council(home, monkeypatch):
    """A live server on a free port over the tiny model: url, engine, memory, openai client."""
    monkeypatch.setenv("MAX_TOKENS", "12")
    monkeypatch.setenv("MAX_BATCH", "4")
    engine, memory = make_engine(save_base(home / "tiny", monkeypatch), ends=()), FaissMemory()
    bound = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(engine, memory), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    wait_for(lambda: server.started)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    yield SimpleNamespace(url=url, engine=engine, memory=memory, openai=client, client=CouncilClient(url))
    server.should_exit = True
    thread.join()


def post(council, path="/v1/chat/completions", **body):
    return httpx.post(council.url + path, json=body, timeout=60)


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


def test_an_adapter_comes_serves_and_goes(council):
    release = make_release(modules=ALL_LINEAR)
    plain = council.client.ask("Hello", store=False).text
    council.client.load_adapter(release.name, str(release.path))
    assert council.client.health()["adapters"] == ["base", release.name]
    assert council.client.ask("Hello", store=False).text == plain
    tuned = council.client.ask("Hello", model=release.name, store=False).text
    assert tuned != plain
    routed = {"stable": release.name, "previous": "base", "canary": None, "share": 0, "shadow": None}
    assert council.client.route(release.name) == routed
    reply = council.client.ask("Hello")
    assert reply.text == tuned and kept(council, reply.id)["adapter"] == release.name
    assert council.client.health()["adapter"] == release.name
    assert post(council, "/v1/unload_lora_adapter", lora_name=release.name).status_code == 400
    council.client.route("base")
    council.client.unload_adapter(release.name)
    assert council.client.health()["adapters"] == ["base"]
    assert post(council, "/v1/unload_lora_adapter", lora_name=release.name).status_code == 404
    assert post(council, "/v1/route", stable=release.name).status_code == 404


def test_what_must_not_serve_is_refused_and_the_old_keeps_serving(council, home):
    good = make_release(modules=ALL_LINEAR)
    council.client.load_adapter(good.name, str(good.path))
    council.client.route(good.name)
    before = council.client.ask("Hello", store=False).text
    torn, outside = make_release(seed=2), home / "elsewhere"
    os.chmod(torn.path / "adapter_model.safetensors", 0o644)
    (torn.path / "adapter_model.safetensors").write_bytes(b"torn")
    outside.mkdir()
    for name, path in [
        (good.name, good.path),
        ("torn", torn.path),
        ("outside", outside),
        ("dots", good.path / ".." / ".." / ".." / "elsewhere"),
        ("none", home / "loras" / "adapters" / "none"),
        ("base", adapters.ensure_base().path),
        ("empty", adapters.ensure_base().path),
        ("../x", good.path),
    ]:
        response = post(council, "/v1/load_lora_adapter", lora_name=name, lora_path=str(path))
        assert response.status_code == 400 and response.json()["error"]["message"], name
    assert council.client.health()["adapters"] == ["base", good.name]
    assert council.client.ask("Hello", store=False).text == before


def test_a_swap_under_load_drops_no_request(council):
    release = make_release(modules=ALL_LINEAR)
    council.client.load_adapter(release.name, str(release.path))
    expected = {name: council.client.ask("Hello", model=name, store=False).text for name in ("base", release.name)}
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(post(council, store=False, messages=[{"role": "user", "content": "Hello"}]))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    [thread.start() for thread in threads]
    for at in range(30):
        council.client.route((release.name, "base")[at % 2])
        time.sleep(0.02)
    wait_for(lambda: len(answers) >= 40)
    stop.set()
    [thread.join() for thread in threads]
    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert all(b["choices"][0]["message"]["content"] == expected[b["council"]["adapter"]] for b in bodies)
    assert {body["council"]["adapter"] for body in bodies} == set(expected)


@pytest.fixture
def canary(council):
    """An adapter that takes a part of the requests."""
    release = make_release(modules=ALL_LINEAR)
    council.client.load_adapter(release.name, str(release.path))
    return release.name


def answered_by(council, **options):
    return post(council, max_tokens=1, **ASK, **options).json()["council"]["adapter"]


def test_a_canary_takes_its_share_of_the_users_and_keeps_them(council, canary):
    users = [f"user {n}" for n in range(60)]
    chosen = {}
    for share in (0, 0.1, 0.5, 1):
        council.client.route("base", canary, share)
        health = council.client.health()
        assert (health["adapter"], health["canary"], health["share"]) == ("base", canary, share)
        chosen[share] = {user for user in users if answered_by(council, user=user) == canary}
        assert all(answered_by(council, user=user) == canary for user in list(chosen[share])[:5])
    assert chosen[0] < chosen[0.1] < chosen[0.5] < chosen[1] == set(users)
    assert 15 <= len(chosen[0.5]) <= 45, "half, give or take four standard deviations"
    seen = council.client.metrics()
    assert f'autogen_requests_total{{adapter="{canary}",origin="user"}}' in seen


def test_without_a_user_the_share_goes_by_request_and_a_name_is_a_name(council, canary):
    council.client.route("base", canary, 0.5)
    assert {answered_by(council) for _ in range(40)} == {"base", canary}
    assert {answered_by(council, model=name) for name in ("base", canary) for _ in range(5)} == {"base", canary}
    assert post(council, "/v1/unload_lora_adapter", lora_name=canary).status_code == 400
    council.client.route("base")
    assert council.client.health()["canary"] is None
    assert {answered_by(council) for _ in range(10)} == {"base"}
    council.client.unload_adapter(canary)


def test_a_shadow_answers_copies_that_nobody_sees(council, canary):
    council.client.route("base", shadow=canary)
    assert {answered_by(council) for _ in range(5)} == {"base"}
    answered_by(council, store=False)
    answered_by(council, model="base")
    seen = f'autogen_requests_total{{adapter="{canary}",origin="shadow"}} 5.0'
    wait_for(lambda: seen in council.client.metrics())
    compared = [line for line in council.client.metrics().splitlines() if line.startswith("autogen_compared_requests")]
    assert all('adapter="base"' in line for line in compared)
    assert sum(float(line.split()[-1]) for line in compared) == 5
    wait_for(lambda: len(council.memory.meta) == 6)
    assert {record["adapter"] for record in council.memory.meta} == {"base"}
    assert post(council, "/v1/unload_lora_adapter", lora_name=canary).status_code == 400


SENSELESS = [
    ({"canary": "nobody", "share": 0.5}, "canary", 404),
    ({"shadow": "nobody"}, "shadow", 404),
    ({"share": 0.5}, "share", 400),
    ({"canary": "base", "share": 2}, "share", 400),
    ({"part": 1}, "part", 400),
]


@pytest.mark.parametrize(("more", "field", "status"), SENSELESS)
def test_a_route_that_makes_no_sense_changes_nothing(council, canary, more, field, status):
    council.client.route("base", canary, 0.5)
    response = post(council, "/v1/route", stable="base", **more)
    assert (response.status_code, response.json()["error"]["param"]) == (status, field)
    assert council.client.health()["share"] == 0.5


@pytest.mark.parametrize("stream", [True, False])
def test_where_the_canary_breaks_the_engine_stable_answers(council, canary, monkeypatch, stream):
    """The same step may carry requests of stable: none of them is lost either."""
    forward = council.engine.decoder.forward

    def breaks(spans):
        time.sleep(0.005)  # so that requests meet in one step
        return 1 / 0 if any(span.lora for span in spans) else forward(spans)

    council.client.route("base", canary, 0.5)
    expected = council.client.ask("What is 2 + 2?", model="base", store=False).text
    monkeypatch.setattr(council.engine.decoder, "forward", breaks)
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda _: post(council, stream=stream, **ASK), range(24)))
    assert {response.status_code for response in told} == {200}
    if stream:
        assert not any("engine failed" in response.text for response in told)
    else:
        bodies = [response.json() for response in told]
        told = {(body["choices"][0]["message"]["content"], body["council"]["adapter"]) for body in bodies}
        assert told == {(expected, "base")}
    assert f'autogen_requests_success_total{{adapter="{canary}",origin="user"}} 0.0' in council.client.metrics()
    assert post(council, model=canary, **ASK).status_code == 500, "who names it is told"


STATE_CHANGES = {
    "/v1/load_lora_adapter": {"lora_name": "a", "lora_path": "b"},
    "/v1/unload_lora_adapter": {"lora_name": "a"},
    "/v1/route": {"stable": "base"},
    "/v1/feedback": {"id": "a", "success": True},
    "/v1/chat/completions": ASK,
}


@pytest.mark.parametrize("path", STATE_CHANGES)
def test_from_elsewhere_a_change_needs_the_key(council, monkeypatch, path):
    app = create_app(council.engine, council.memory)
    stranger, body = TestClient(app, client=("192.0.2.7", 5000)), STATE_CHANGES[path]
    assert stranger.post(path, json=body).status_code == 403
    assert stranger.get("/health").status_code == 200
    monkeypatch.setenv("COUNCIL_API_KEY", "s3cret")
    get_settings.cache_clear()
    assert stranger.post(path, json=body).status_code == 401
    assert stranger.post(path, json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    right = {"Authorization": "Bearer s3cret"}
    assert stranger.post(path, json=body, headers=right).status_code not in (401, 403)
    neighbour = TestClient(app, "http://localhost", client=("::ffff:127.0.0.1", 5000))
    assert neighbour.post(path, json=body).status_code not in (401, 403)
    rebound = TestClient(app, "http://a.page.elsewhere", client=("127.0.0.1", 5000))
    assert rebound.post(path, json=body).status_code == 401


@pytest.mark.parametrize(("url", "reason"), [("http://0.0.0.0:0", "COUNCIL_API_KEY"), ("https://localhost:0", "TLS")])
def test_it_does_not_listen_where_it_must_not(monkeypatch, url, reason):
    monkeypatch.setenv("COUNCIL_URL", url)
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match=reason):
        listen()


def test_a_taken_port_is_said_so(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("COUNCIL_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        get_settings.cache_clear()
        with pytest.raises(CouncilError, match="another server"):
            listen()


def test_it_starts_on_current_or_says_why_not(home, monkeypatch):
    engine = make_engine(save_base(home / "tiny", monkeypatch))
    serve_current(engine)
    adapters.point("current", adapters.ensure_base())
    serve_current(engine)
    assert engine.router.stable == "base"
    release = make_release()
    adapters.point("current", release)
    serve_current(engine)
    assert engine.router.stable == release.name
    broken = make_release(seed=2)
    adapters.point("current", broken)
    os.chmod(broken.path / "adapter_config.json", 0o644)
    (broken.path / "adapter_config.json").write_text("{}")
    with pytest.raises(CouncilError, match="rollback_lora") as refused:
        serve_current(engine)
    assert refused.value.exit_code == REFUSED
    engine.close()


@pytest.mark.parametrize(("sign", "stream"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_signal_to_stop_lets_what_was_asked_be_finished(home, monkeypatch, sign, stream):
    """The whole program, as `make serve` runs it."""
    save_base(home / "tiny", monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "COUNCIL_URL": url, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    program = subprocess.Popen([sys.executable, "-m", "agent0.serve"], cwd=ROOT, env=environment)
    try:
        wait_for(lambda: program.poll() is not None or is_up(url), seconds=120)
        with ThreadPoolExecutor() as pool:
            asked = {**ASK, "stream": stream, "max_tokens": 220, "n": 16}
            answer = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=asked, timeout=60)
            time.sleep(0.1)
            program.send_signal(sign)
            wait_for(lambda: not is_up(url))
            said = answer.result()
        assert "data: [DONE]" in said.text if stream else len(said.json()["choices"]) == 16
        assert program.wait(30) == 0
        memory = FaissMemory()
        assert len(memory.meta) == 1
        memory.close()
    finally:
        program.kill()


def is_up(url):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").is_success
    return False
