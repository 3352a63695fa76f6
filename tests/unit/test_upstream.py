"""The Council server in front of another one: a stand-in that speaks vLLM's endpoints, and llama.cpp's own server."""

import contextlib
import os
import socket
import subprocess
import threading
from types import SimpleNamespace

import httpx
import openai
import pytest
import uvicorn
from lora_kit import make_base, make_release
from scripted_engine import kept, wait_for
from vllm_stand_in import MODEL, SENTENCE, StandIn

from agent0.client import CouncilClient, ServerError
from agent0.command import USAGE, CouncilError
from agent0.serve.api import create_app
from agent0.serve.errors import ApiError
from agent0.serve.upstream import load_engine
from agent0.settings import get_settings
from faiss_memory import FaissMemory

ASK = {"messages": [{"role": "user", "content": "Will it rain?"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
def vllm():
    server = StandIn().start()
    yield server
    server.stop()


@pytest.fixture
def council(home, monkeypatch, vllm):
    """A live Council server before the stand-in."""
    make_base(home / "models" / "tiny", monkeypatch)
    with serving(monkeypatch, vllm.url) as running:
        yield running


@contextlib.contextmanager
def serving(monkeypatch, url):
    monkeypatch.setenv("UPSTREAM_URL", url)
    get_settings.cache_clear()
    engine, memory, bound = load_engine(), FaissMemory(), socket.create_server(("127.0.0.1", 0))
    at = f"http://127.0.0.1:{bound.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(create_app(engine, memory), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    wait_for(lambda: server.started)
    client = openai.OpenAI(base_url=f"{at}/v1", api_key="any", max_retries=0)
    yield SimpleNamespace(url=at, engine=engine, memory=memory, openai=client, client=CouncilClient(at))
    server.should_exit = True
    thread.join()


def ask(council, **more):
    return httpx.post(council.url + CHAT, json={**ASK, **more}, timeout=30)


def loaded(council, seed=0, **options):
    """A release that is loaded through the Council server."""
    release = make_release(seed, **options)
    council.client.load_adapter(release.name, str(release.path))
    return release


def streamed(council, **more):
    return council.openai.chat.completions.create(model="council", stream=True, **ASK, **more)


def test_the_openai_client_asks_whole_and_the_answer_is_remembered(council, vllm):
    answer = council.openai.chat.completions.create(
        model="council", user="ann", seed=7, stop=["rain"], temperature=0.5, max_tokens=20, **ASK
    )
    assert answer.choices[0].message.content == "Perhaps it will " and answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 4)
    (asked,) = vllm.asked
    assert (asked["model"], asked["seed"], asked["stop"], asked["max_tokens"]) == (MODEL, 7, ["rain"], 20)
    assert (asked["temperature"], asked["logprobs"]) == (0.5, True)
    record = kept(council, answer.id)
    assert (record["model"], record["adapter"], record["user"]) == (MODEL, "base", "ann")
    assert record["confidence"] == pytest.approx(0.9) == answer.council["confidence"] and record["success"]


def test_the_openai_client_streams_the_same_answer_in_pieces(council):
    chunks = list(streamed(council, max_tokens=3, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert pieces == ["Perhaps ", "it ", "will "]
    assert chunks[-2].choices[0].finish_reason == "length" and chunks[-1].usage.completion_tokens == 3
    assert kept(council, chunks[0].id)["response"] == "".join(pieces)


def test_an_unsure_answer_fails_and_feedback_overrules_it(council, vllm):
    vllm.probability = 0.5
    reply = council.client.ask("Will it rain?")
    assert kept(council, reply.id)["failure_reason"] == "confidence 0.50"
    assert 'autogen_requests_success_total{adapter="base",origin="user"} 0.0' in council.client.metrics()
    council.client.feedback(reply.id, success=True)
    assert council.memory.get(reply.id)["success"]


def test_without_logprobs_there_is_no_confidence_and_the_answer_counts_as_a_success(council, vllm):
    vllm.logprobs = False
    answer = ask(council).json()
    assert answer["council"] == {"adapter": "base", "confidence": None, "success": True}
    assert kept(council, answer["id"])["success"]


FAILURES = {
    "full": ({"status": 429}, 429, "too many requests"),
    "down inside": ({"status": 500, "body": "EngineCore died"}, 502, "EngineCore died"),
    "loading": ({"status": 503, "body": "Loading model"}, 503, "Loading model"),
    "key": ({"status": 401, "body": "sk-secret"}, 502, "UPSTREAM_API_KEY"),
    "too long": ({"status": 400, "body": "maximum context length is 64 tokens"}, 400, "context length is 64"),
    "silence": ({"hang": True}, 504, "said nothing for 0.5 s"),
    "cut off": ({"cut": 2}, 502, "cut off"),
    "dies in mid-answer": ({"breaks": 2}, 502, "EngineCore died"),
    "aborted": ({"finish": "abort"}, 502, "'abort'"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_goes_wrong_upstream_is_told_and_never_remembered(council, vllm, monkeypatch, case):
    vllm.fails, status, message = FAILURES[case]
    if case == "silence":
        vllm.proceed.clear()
        monkeypatch.setattr(council.engine._remote, "_timeout", 0.5)
    response = ask(council)
    assert response.status_code == status and message in response.json()["error"]["message"]
    assert "sk-secret" not in response.text
    assert status != 429 or response.headers["Retry-After"] == "7"
    with pytest.raises(openai.APIError, match=message):
        list(streamed(council))
    assert len(council.memory.meta) == 0
    failed = 'autogen_requests_total{adapter="base",origin="user"} 2.0' in council.client.metrics()
    assert failed == (status >= 500), "a refusal is not a failure of the adapter"
    vllm.fails = {}
    vllm.proceed.set()
    monkeypatch.setattr(council.engine._remote, "_timeout", 30)
    assert council.client.ask("Will it rain?").text == SENTENCE


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("when", ["hang", "in mid-answer"])
def test_a_client_that_hangs_up_ends_the_work_upstream(council, vllm, stream, when):
    vllm.fails = {"hang": True} if when == "hang" else {}
    vllm.proceed.clear()
    with contextlib.suppress(httpx.TimeoutException), httpx.Client(timeout=0.3) as client:
        client.post(council.url + CHAT, json={**ASK, "stream": stream})
    wait_for(lambda: vllm.broken_off == 1)
    wait_for(lambda: not council.engine._in_flight.total())
    assert len(council.memory.meta) == 0


def test_more_requests_than_may_wait_get_429(council, vllm, monkeypatch):
    monkeypatch.setattr(council.engine, "_most", 0)
    assert ask(council).json()["error"]["code"] == "queue_full"


def test_the_key_goes_to_the_upstream_only(monkeypatch, home, vllm):
    monkeypatch.setenv("UPSTREAM_API_KEY", "sk-ours")
    with serving(monkeypatch, f"{vllm.url}/v1/") as council:
        council.client.ask("Will it rain?")
        assert vllm.keys == {"Bearer sk-ours"}
        assert "sk-ours" not in str(get_settings().public()) + council.client.metrics() + str(council.client.health())


def test_health_is_the_upstreams(council, vllm):
    health = council.client.health()
    assert (health["status"], health["engine"], health["model"]) == ("healthy", "upstream", MODEL)
    vllm.stop()
    with pytest.raises(ServerError, match=r"503.*the upstream is not there"):
        council.client.health()
    assert ask(council).status_code == 503
    vllm.start()
    assert council.client.health()["status"] == "healthy" and ask(council).status_code == 200


def test_an_adapter_is_loaded_upstream_answers_by_its_name_and_goes(council, vllm):
    release = loaded(council)
    assert vllm.loaded == {release.name: str(release.path)}
    council.client.route("base", release.name, share=1.0)
    assert ask(council).json()["council"]["adapter"] == release.name
    assert vllm.asked[-1]["model"] == release.name
    council.client.route("base")
    council.client.unload_adapter(release.name)
    assert vllm.loaded == {} and council.client.health()["adapters"] == ["base"]
    council.client.load_adapter(release.name, str(release.path))
    with pytest.raises(ServerError, match="404"):
        council.client.unload_adapter("nobody")


def test_unloading_waits_for_the_answers_under_way(council, vllm):
    release, answers = loaded(council), []
    vllm.proceed.clear()
    asking = threading.Thread(target=lambda: answers.append(council.client.ask("Rain?", model=release.name)))
    asking.start()
    wait_for(lambda: vllm.running[release.name])
    leaving = threading.Thread(target=council.client.unload_adapter, args=(release.name,))
    leaving.start()
    wait_for(lambda: release.name not in council.engine.router.names)
    assert ask(council, model=release.name).status_code == 404 and release.name in vllm.loaded
    vllm.proceed.set()
    asking.join()
    leaving.join()
    assert answers[0].text == SENTENCE and vllm.loaded == {}


LOADING = {
    "no endpoints": ({"runtime_updating": False}, {}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
    "no LoRA": ({"enable_lora": False}, {}, "LoRA is not enabled. Use --enable-lora"),
    "rank": ({"max_lora_rank": 2}, {}, "--max-lora-rank 4"),
    "broken": ({}, {"load_status": 500}, "HTTP 500: CUDA out of memory"),
    "silence": ({}, {"load_hang": True}, "said nothing for 0.5 s"),
}


@pytest.mark.parametrize("case", LOADING)
def test_what_the_upstream_does_not_load_is_refused_in_one_line_that_says_what_to_do(council, vllm, monkeypatch, case):
    state, vllm.fails, message = LOADING[case]
    vars(vllm).update(state)
    if case == "silence":
        vllm.proceed.clear()
        monkeypatch.setattr(council.engine._remote, "_timeout", 0.5)
    with pytest.raises(ServerError, match=message) as refused:
        loaded(council)
    assert len(str(refused.value).splitlines()) == 1
    assert (council.client.health()["adapters"] == ["base"] and ask(council).status_code == 200) or case == "silence"


def test_a_folder_that_the_upstream_does_not_see_is_said_so(council, home):
    (home / "empty").mkdir()
    with pytest.raises(ApiError, match="its machine must have it at the same path"):
        council.engine.load("elsewhere", home / "empty")


def test_what_is_loaded_upstream_already_is_taken_and_another_of_that_name_is_not(council, vllm):
    mine, other = make_release(1), make_release(2)
    vllm.loaded = {mine.name: str(mine.path), other.name: "/somewhere/else"}
    council.client.load_adapter(mine.name, str(mine.path))
    with pytest.raises(ServerError, match="/somewhere/else"):
        council.client.load_adapter(other.name, str(other.path))
    assert council.client.health()["adapters"] == ["base", mine.name]


def test_a_name_never_stands_for_another_adapter(council):
    one, two = make_release(1), make_release(2)
    council.client.load_adapter("candidate", str(one.path))
    council.client.unload_adapter("candidate")
    with pytest.raises(ServerError, match="names are not reused"):
        council.client.load_adapter("candidate", str(two.path))


def test_an_upstream_that_was_restarted_gets_its_adapters_again_and_no_request_fails(council, vllm):
    release = loaded(council)
    council.client.route(release.name)
    vllm.restart()
    replies = council.client.ask_many(["Will it rain?"] * 8, clients=4)
    assert [reply.text for reply in replies] == [SENTENCE] * 8 and release.name in vllm.loaded
    vllm.restart()
    assert list(streamed(council))[-1].council["adapter"] == release.name


def test_an_adapter_that_cannot_be_loaded_again_is_an_error_and_as_canary_stable_answers(council, vllm):
    release = loaded(council)
    vllm.restart()
    vllm.runtime_updating = False
    response = ask(council, model=release.name)
    assert response.status_code == 502 and "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in response.json()["error"]["message"]
    council.client.route("base", release.name, share=1.0)
    assert ask(council).json()["council"]["adapter"] == "base"


def test_unloading_what_a_restart_has_lost_is_fine(council, vllm):
    release = loaded(council)
    vllm.restart()
    council.client.unload_adapter(release.name)


BAD_URLS = {
    "": "is not an https:// URL",
    "ftp://x": "UPSTREAM_URL",
    "http://10.1.2.3:8000": "COUNCIL_ALLOWED_HOSTS",
    "https://10.1.2.3": "private",
    "http://name:password@127.0.0.1": "ends up in logs",
}


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_may_not_be_sent_to_is_refused_at_the_start(monkeypatch, url):
    monkeypatch.setenv("UPSTREAM_URL", url)
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match=BAD_URLS[url]) as refused:
        load_engine()
    assert refused.value.exit_code == USAGE and "name:" not in str(refused.value)


def test_an_upstream_that_is_not_there_or_serves_no_clear_model_is_refused_at_the_start(monkeypatch, vllm):
    monkeypatch.setenv("UPSTREAM_URL", vllm.url)
    get_settings.cache_clear()
    vllm.loaded = {"an adapter": "/x"}
    assert load_engine().model == MODEL
    monkeypatch.setattr("vllm_stand_in.MODEL", None)
    with pytest.raises(CouncilError, match="set UPSTREAM_MODEL"):
        load_engine()
    monkeypatch.setenv("UPSTREAM_MODEL", "the-one")
    get_settings.cache_clear()
    assert load_engine().model == "the-one"
    monkeypatch.delenv("UPSTREAM_MODEL")
    get_settings.cache_clear()
    vllm.stop()
    with pytest.raises(CouncilError, match="is not there"):
        load_engine()
    vllm.start()


# llama.cpp's own server, where LLAMA_SERVER names its binary.


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """llama-server on the GGUF of the embedded model."""
    from agent0.models import _GGUF_FILE, _GGUF_WHEEL, _wheel_folder

    binary = os.environ.get("LLAMA_SERVER")
    if not binary:
        pytest.skip("LLAMA_SERVER does not name a llama-server binary (llama.cpp)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model = ["--model", str(_wheel_folder(_GGUF_WHEEL) / _GGUF_FILE), "--alias", "smollm2"]
    command = [binary, *model, "--port", str(port), "--ctx-size", "2048", "--parallel", "2", "--threads", "1"]
    with open(tmp_path_factory.mktemp("llama") / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(url), 120)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def answers(url):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health").status_code == 200


def test_llama_cpps_server_chats_and_streams(monkeypatch, home, llama):
    question = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16}
    with serving(monkeypatch, llama) as council:
        create = council.openai.chat.completions.create
        whole = create(model="council", **question)
        chunks = list(create(model="council", stream=True, **question))
        pieces, text = [chunk.choices[0].delta.content or "" for chunk in chunks], whole.choices[0].message.content
        assert "".join(pieces) == text and len(pieces) > 5
        assert 0 < whole.council["confidence"] < 1 and whole.usage.prompt_tokens > 5
        assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 16
        assert kept(council, whole.id)["model"] == "smollm2"
        stop = text.split()[1]
        stopped = create(model="council", stop=[stop], **question)
        assert stopped.choices[0].message.content == text.split(stop)[0]
        assert stopped.choices[0].finish_reason == "stop"
        hot = [create(model="council", temperature=1.5, seed=11, **question) for _ in range(2)]
        assert len({answer.choices[0].message.content for answer in hot} - {text}) == 1
        with pytest.raises(openai.BadRequestError, match="context"):
            create(model="council", messages=[{"role": "user", "content": "word " * 4000}])


def test_llama_cpps_server_stops_when_a_client_goes_away(monkeypatch, home, llama):
    with serving(monkeypatch, llama) as council:
        with council.openai.chat.completions.create(
            model="council", stream=True, max_tokens=1500, messages=[{"role": "user", "content": "Count to 1000."}]
        ) as stream:
            next(iter(stream))
        wait_for(lambda: not council.engine._in_flight.total())
        wait_for(lambda: not any(slot["is_processing"] for slot in httpx.get(f"{llama}/slots").json()))


def test_llama_cpps_server_serves_chat_only_and_says_so(monkeypatch, home, llama):
    make_base(home / "models" / "tiny", monkeypatch)
    with serving(monkeypatch, llama) as council, pytest.raises(ServerError, match=r"no LoRA endpoints.*chat only"):
        loaded(council)
