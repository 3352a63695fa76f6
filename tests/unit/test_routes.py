"""Adapters that come and go on a live server, who answers whom, and who may change that."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from lora_kit import ALL_LINEAR, make_release
from scripted_engine import kept, wait_for
from server_kit import ASK, live_council, post

from agent0 import adapters
from agent0.serve.api import create_app
from agent0.settings import get_settings


@pytest.fixture
def council(home, monkeypatch):
    with live_council(home, monkeypatch) as running:
        yield running


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
    assert neighbour.post(path, json=body).status_code == 401, "it may be a stranger, whom a proxy here passes on"
    monkeypatch.delenv("COUNCIL_API_KEY")
    get_settings.cache_clear()
    assert neighbour.post(path, json=body).status_code not in (401, 403)
    for name in ("Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"):
        assert neighbour.post(path, json=body, headers={name: "192.0.2.7"}).status_code == 403
    rebound = TestClient(app, "http://a.page.elsewhere", client=("127.0.0.1", 5000))
    assert rebound.post(path, json=body).status_code == 403
