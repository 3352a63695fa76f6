"""The pages for people: who may read, who may act, and what acting does."""

import subprocess

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lora_kit import make_release
from night_kit import NASTY, whole_night

from agent0 import adapters, ledger, report, train
from agent0.serve import overrule, pages
from agent0.settings import ROOT, get_settings
from faiss_memory import FaissMemory

HERE, ORIGIN = ("127.0.0.1", 5000), {"Origin": "http://127.0.0.1:8000"}
KEY = "a key that is long enough"


@pytest.fixture
def app(monkeypatch, home):
    whole_night(monkeypatch, home)
    monkeypatch.setattr(report.plots, "_figure", lambda *_: "<svg></svg>")  # drawn and looked at in test_report.py
    report.write()
    monkeypatch.delenv("COUNCIL_NIGHT")
    monkeypatch.setenv("COUNCIL_API_KEY", KEY)
    get_settings.cache_clear()
    memory, app = FaissMemory(), FastAPI()
    visitors = pages.Visitors()
    pages.install(app, memory, visitors)
    overrule.install(app, memory, visitors)
    app.state.memory = memory
    yield app
    memory.close()


def browser(app, client=HERE, host="127.0.0.1:8000") -> TestClient:
    return TestClient(app, base_url=f"http://{host}", client=client, follow_redirects=False)


def signed_in(app) -> TestClient:
    visitor = browser(app)
    answer = visitor.post("/sign-in", data={"token": KEY}, headers=ORIGIN)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and KEY not in cookie
    return visitor


def test_the_newest_report_is_the_first_page_and_past_nights_have_their_own(app):
    visitor = browser(app)
    for path in ("/", "/reports/20261123"):
        answer = visitor.get(path)
        assert answer.status_code == 200 and "serves in place of base" in answer.text
        assert '<body class="reader">' in answer.text and "sign in to overrule" in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert 'href="/reports/20261123"' in visitor.get("/reports").text


@pytest.mark.parametrize("day", ["20261122", "..%2f..%2fledger", "%2e%2e", "2026112", "20261123.html", "ledger.jsonl"])
def test_a_day_is_a_day_and_never_a_path(app, day):
    assert browser(app).get(f"/reports/{day}").status_code == 404


def test_before_the_first_night_the_page_says_how_to_run_one(app, home):
    (home / "logs" / "report_20261123.html").unlink()
    assert "make night" in browser(app).get("/").text


@pytest.mark.parametrize(
    ("client", "host"), [(("10.1.1.1", 5), "127.0.0.1:8000"), (HERE, "evil.example:8000"), (HERE, "")]
)
def test_from_elsewhere_or_under_another_name_one_must_sign_in_to_read(app, client, host):
    visitor = browser(app, client)
    for path in ("/", "/reports", "/reports/20261123", "/why/x"):
        answer = visitor.get(path, headers={"Host": host})
        assert answer.status_code == 401 and "Ulm" not in answer.text


def test_who_signed_in_reads_from_elsewhere(app):
    cookie = signed_in(app).cookies["council"]
    visitor = browser(app, ("10.1.1.1", 5))
    visitor.cookies.set("council", cookie)
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("token", ["", "wrong", "ü" * 3, KEY + " "])
def test_a_wrong_token_signs_nobody_in(app, token):
    visitor = browser(app)
    assert visitor.post("/sign-in", data={"token": token}, headers=ORIGIN).status_code == 403
    assert not visitor.cookies


def test_a_veto_from_the_page_leaves_the_pool(app):
    visitor = signed_in(app)
    assert '<body class="signed">' in visitor.get("/").text
    answer = visitor.post("/veto", data={"example": "example1", "undo": "false"}, headers=ORIGIN)
    assert answer.status_code == 200 and "is vetoed" in answer.text
    assert "allow again" in visitor.get("/").text
    assert "example1" not in {e.id for e in train.load_pool(get_settings().training_data)}
    assert visitor.post("/veto", data={"example": "nothing"}, headers=ORIGIN).status_code == 400


def test_a_release_is_refused_from_the_page_by_whom_it_says(app):
    visitor, release = signed_in(app), make_release(seed=7)
    assert "refuse</button>" not in visitor.get("/").text
    adapters.point("latest", release)
    ledger.append("training", release=release.name)
    assert "refuse</button>" in visitor.get("/").text
    answer = visitor.post("/refuse", data={"release": release.name, "undo": "false"}, headers=ORIGIN)
    assert answer.status_code == 200 and "never deployed" in answer.text
    assert ledger.last("refusal")["by"] == "somebody on the page, at 127.0.0.1"
    assert "refused by somebody on the page, at 127.0.0.1" in visitor.get("/").text
    serving = adapters.target("current").name
    for wrong in (serving, "base", "nothing", "--list", ""):
        assert visitor.post("/refuse", data={"release": wrong}, headers=ORIGIN).status_code == 400
    assert visitor.post("/refuse", data={"release": release.name, "undo": "true"}, headers=ORIGIN).status_code == 200
    assert adapters.validate(release.name) == release


def test_a_thumb_becomes_feedback(app):
    visitor, memory = signed_in(app), app.state.memory
    answer = memory.meta[0]["id"]
    assert visitor.post("/thumb", data={"answer": answer, "success": "true"}, headers=ORIGIN).status_code == 200
    assert memory.get(answer)["success"] is True and memory.get(answer)["feedback"]["success"] is True
    assert visitor.post("/thumb", data={"answer": "nothing", "success": "true"}, headers=ORIGIN).status_code == 404


def test_a_rollback_from_the_page_runs_the_script(app, monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command)
        return subprocess.CompletedProcess(
            command, 0 if command[-1] == "base" else 30, "", "rollback: no such release\n"
        )

    monkeypatch.setattr(overrule.subprocess, "run", run)
    visitor = signed_in(app)
    assert visitor.post("/rollback", data={"release": "base"}, headers=ORIGIN).status_code == 200
    assert ran == [["bash", str(ROOT / "rollback_lora.sh"), "--to", "base"]]
    answer = visitor.post("/rollback", data={"release": "r9"}, headers=ORIGIN)
    assert answer.status_code == 400 and "no such release" in answer.text
    assert visitor.post("/rollback", data={"release": "--list"}, headers=ORIGIN).status_code == 400
    assert len(ran) == 2


@pytest.mark.parametrize("path", ["/veto", "/thumb", "/refuse", "/rollback"])
def test_nobody_acts_without_signing_in_or_from_another_page(app, path):
    form = {"example": "example1", "answer": app.state.memory.meta[0]["id"], "success": "true", "release": "base"}
    assert browser(app).post(path, data=form, headers=ORIGIN).status_code == 403
    visitor = signed_in(app)
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:8001"}):
        assert visitor.post(path, data=form, headers=origin).status_code == 403
    forged = browser(app)
    forged.cookies.set("council", "0" * 64)
    assert forged.post(path, data=form, headers=ORIGIN).status_code == 403
    assert app.state.memory.meta[0]["feedback"] is None
    assert len(train.load_pool(get_settings().training_data)) == 6


def test_a_form_that_is_too_big_is_not_read(app):
    assert signed_in(app).post("/veto", data={"example": "x" * 9000}, headers=ORIGIN).status_code == 400


def test_why_is_escaped_and_says_what_it_does_not_know(app):
    visitor = browser(app)
    answer = visitor.get(f"/why/{app.state.memory.meta[0]['id']}")
    assert answer.status_code == 200 and NASTY not in answer.text and "the model itself answered" in answer.text
    missing = visitor.get("/why/<script>")
    assert missing.status_code == 404 and "&lt;script&gt;" in missing.text and "<script>" not in missing.text


def test_without_a_key_the_log_shows_a_token_of_this_start(home, caplog, monkeypatch):
    monkeypatch.setattr(pages.log, "propagate", True)
    with caplog.at_level("INFO"):
        visitors = pages.Visitors()
    assert visitors.knows(caplog.text.partition("the token ")[2].partition(")")[0]) and not visitors.knows("")
