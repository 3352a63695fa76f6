"""The pages of a whole server process, as a person uses them: by a browser, and by what the browser would send."""

import os
import re
import socket
import subprocess
import sys
import time

import httpx
import pytest
from lora_kit import make_release
from night_kit import begin, deploy, end, harvest, judge
from tiny_council import save_base

from agent0 import adapters, ledger, report, train
from agent0.client import CouncilClient, ServerError
from agent0.settings import ROOT, get_settings
from tests.browser import CHROMIUM, Browser

QUESTION = "What is 2 + 2?"


class Live:
    """A running server over a night that deployed `better` in place of `good`, while `waiting` is loras/latest."""

    def __init__(self, home, monkeypatch):
        begin(monkeypatch, home)
        save_base(home / "base", monkeypatch)
        self.good, self.better, self.waiting = (make_release(seed=n, modules=["q_proj"]) for n in (1, 2, 3))
        harvest(home)
        judge(self.good)
        deploy(self.good)
        judge(self.better)
        adapters.point(adapters.stamped("rollback"), self.good)
        deploy(self.better)
        adapters.point("latest", self.waiting)
        end()
        report.write()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for name, value in (("COUNCIL_URL", self.url), ("COUNCIL_NIGHT", ""), ("MAX_TOKENS", "8")):
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        self.client, self.said = CouncilClient(self.url), home / "server.log"
        with open(self.said, "w") as out:
            command = [sys.executable, "-m", "agent0.serve"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)

    def token(self) -> str:
        """Wait until the server answers, and return the token that it logs."""
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said.read_text()
            try:
                self.client.health()
                return re.search(r"the token (\S+)\)", self.said.read_text())[1]
            except ServerError:
                time.sleep(0.2)

    def answers_with(self) -> str:
        """The adapter that answers a question, by the server's memory of it."""
        body = {"model": "council", "messages": [{"role": "user", "content": QUESTION}]}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60).json()
        page = httpx.get(f"{self.url}/why/{answer['id']}").text
        return re.search(r"answered by ([\w-]+)", page)[1]


@pytest.fixture
def live(home, monkeypatch):
    if not (ROOT / ".venv/bin/python").exists():
        pytest.skip("rollback_lora.sh runs by .venv, and there is none")
    council = Live(home, monkeypatch)
    yield council
    council.process.terminate()
    council.process.wait(30)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome in PATH")
def test_a_person_reads_the_night_and_overrules_it_in_a_browser(live):
    token = live.token()
    assert live.answers_with() == live.better.name
    with Browser() as browser:
        browser.open(f"{live.url}/")
        assert "serves in place of" in browser.ask("document.querySelector('h1').innerText")
        plots = browser.ask("[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().height)")
        assert len(plots) >= 2 and min(plots) > 100
        assert browser.ask("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.ask("[...document.querySelectorAll('form')].every(f => f.getClientRects().length == 0)")

        browser.press("a[href='/sign-in']")
        browser.type("input[name=token]", token)
        browser.press("button")
        browser.press("form[action='/veto'] button")
        assert "is vetoed" in browser.ask("document.body.innerText")
        assert "example0" not in {example.id for example in train.load_pool(get_settings().training_data)}
        browser.press("a[href='/']")
        assert "allow again" in browser.ask("document.querySelector('#example0').innerText")

        browser.press(f"form[action='/refuse']:has([value='{live.waiting.name}']) button")
        assert f"{live.waiting.name} is refused" in browser.ask("document.body.innerText")
        assert adapters.refused(live.waiting)["by"] == "somebody on the page, at 127.0.0.1"
        browser.press("a[href='/']")
        browser.press(f"form[action='/rollback']:has(input[value='{live.good.name}']) button")
        assert f"{live.good.name} serves now" in browser.ask("document.body.innerText")
        browser.press("a[href='/']")
        rows = browser.ask("[...document.querySelectorAll('tr')].map(row => row.innerText)")
        assert [row.split()[0] for row in rows if " serves" in row] == [live.good.name]
        assert any("refused by somebody on the page" in row for row in rows)
        assert browser.errors == []
        assert all(address.startswith((live.url, "data:")) for address in browser.fetched)
    assert live.answers_with() == live.good.name
    assert adapters.target("current") == live.good and ledger.last("rollback")["to"] == live.good.name


def test_a_rollback_from_the_page_and_what_may_not_be_deployed_after_it(live):
    token = live.token()
    visitor = httpx.Client(base_url=live.url, headers={"Origin": live.url}, timeout=60)
    assert visitor.post("/rollback", data={"release": live.good.name}).status_code == 403
    assert visitor.post("/sign-in", data={"token": token}).status_code == 303
    assert live.answers_with() == live.better.name
    assert f"{live.good.name} serves now" in visitor.post("/rollback", data={"release": live.good.name}).text
    assert live.answers_with() == live.good.name
    assert "never deployed" in visitor.post("/refuse", data={"release": live.better.name, "undo": "false"}).text
    done = subprocess.run(["bash", str(ROOT / "deploy_lora.sh"), live.better.name], capture_output=True, text=True)
    assert done.returncode == 30 and "refused by somebody on the page" in done.stderr
    assert live.answers_with() == live.good.name
