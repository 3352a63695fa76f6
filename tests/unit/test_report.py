"""The morning report: what it says of good, idle and broken nights, and that it is one safe page."""

import re
from html.parser import HTMLParser

import pytest
from night_kit import NASTY, NIGHT, begin, deploy, end, harvest, judge, train, whole_night

from agent0 import adapters, ledger, morning, night, notify, report
from agent0.command import CouncilError
from agent0.morning import Rate
from agent0.settings import get_settings

VOID = {"meta", "link", "input", "br", "path", "use"}


class Page(HTMLParser):
    """A page's text, its addresses, its elements, and whether every element is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.addresses, self.open, self.words, self.elements, self.ids = [], [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        found = dict(attributes)
        self.addresses += [found[name] for name in ("href", "src", "action", "data", "xlink:href") if name in found]
        self.ids += [found["id"]] if "id" in found else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def page_of(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def deployed(monkeypatch, home):
    return whole_night(monkeypatch, home)


def test_a_deployed_night_is_told_in_a_minute(deployed):
    page = page_of(report.write())
    assert f"A new adapter, {deployed.name}, serves in place of base: 15.6% → 37.5% of the held-out" in page.text
    assert "6 new examples" in page.text
    for words in (
        "Success by night",
        "Before → after, by kind",
        "Training",
        "2000 ms",
        "training 10 min",
        "When is noon?",
    ):
        assert words in page.text, words
    assert "2 × no proposal" in page.text
    assert f"{deployed.name} serves" in page.text
    assert page.elements.count("svg") == 3


def test_it_is_one_page_that_fetches_nothing_and_runs_nothing(deployed):
    path = report.write()
    html, page = path.read_text(encoding="utf-8"), page_of(path)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.elements
    assert not re.search(r"https?://|@import|url\((?!#)|\bon\w+=", html)
    assert all(re.match(r"(#|/|data:,|report_\d{8}\.html)", address) for address in page.addresses)
    assert "prefers-color-scheme:dark" in html and "width=device-width" in html


def test_what_users_said_is_escaped(deployed):
    html = report.write().read_text(encoding="utf-8")
    assert NASTY not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 3


def test_figures_take_their_colours_from_the_page(deployed):
    html = report.write().read_text(encoding="utf-8")
    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--after)" in svg and not re.search(r"#[0-9a-f]{6}", svg)


def test_a_refused_release_is_told_with_its_reason(monkeypatch, home):
    begin(monkeypatch, home)
    release = train(harvest(home))
    judge(release, "inconclusive")
    end(30, "candidate not deployed")
    text = page_of(report.write()).text
    assert f"{release.name} was trained, but base goes on serving: held-out +21.9% of 192" in text
    assert "not better for sure" in text and "base serves" in text


def test_a_night_with_too_few_failures_has_a_truthful_report(monkeypatch, home):
    begin(monkeypatch, home)
    harvest(home, 2)
    end(10, "nothing to do", "training")
    page = page_of(report.write())
    assert "Nothing was trained: 4 failures gave 2 accepted rewrites" in page.text
    assert "A training needs 5: tomorrow's harvest must add 3 more." in page.text
    assert "svg" not in page.elements


def test_a_night_that_met_no_server_says_so(monkeypatch, home, tmp_path):
    begin(monkeypatch, home)
    log = tmp_path / "night.log"
    log.write_text("2026-11-23T02:00:00Z http://127.0.0.1:1/health: no answer; start the server with `make serve`\n")
    monkeypatch.setenv("COUNCIL_LOG", str(log))
    end(1, "failed", "pre-flight")
    page = page_of(report.write())
    assert "The night failed in pre-flight: http://127.0.0.1:1/health: no answer" in page.text
    assert "First mend what stopped this night" in page.text


def test_a_night_of_an_older_version_is_reported_without_what_it_did_not_keep(monkeypatch, home):
    begin(monkeypatch, home)
    old = {"asked": 192, "gained": 50, "lost": 8}
    ledger.append(
        "gate", release="r1", serving="base", end="promote", reason="x", improvement=0.2, suites={"held-out": old}
    )
    ledger.append("deployment", release="r1", previous="base", improvement=0.2, seconds=61)
    end()
    assert "serves in place of base: +20.0% of the held-out" in page_of(report.write()).text


def test_two_runs_of_a_day_share_a_page_and_other_nights_are_linked(monkeypatch, home, deployed):
    (home / "logs" / "report_20261101.html").write_text("an older one")
    monkeypatch.setenv("COUNCIL_NIGHT", "20261123T130000Z")
    get_settings.cache_clear()
    end(10, "nothing to do", "training")
    path = report.write()
    page = page_of(path)
    assert "Nothing was trained" in page.text
    assert f"{NIGHT}: A new adapter" in page.text
    assert "report_20261101.html" in page.addresses
    assert report.reported_days() == ["20261123", "20261101"]


def test_success_by_night_is_what_serves_after_each_gate(monkeypatch, home, deployed):
    first = morning.nights()[-1].history()
    assert [(point.release, point.rate.right) for point in first] == [("base", 30), (deployed.name, 72)]
    judge(adapters.ensure_base(), "refuse")
    again = morning.night_of(NIGHT, ledger.read()).history()
    assert [point.rate.right for point in again] == [30, 72, 30]


def test_the_interval_is_wilsons():
    low, high = Rate(8, 10).interval
    assert (low, high) == (pytest.approx(0.4901625, abs=1e-6), pytest.approx(0.9433178, abs=1e-6))
    assert Rate(0, 10).interval[0] == pytest.approx(0)


def test_before_any_night_there_is_nothing_to_report(home):
    with pytest.raises(CouncilError, match="make night"):
        report.write()


@pytest.fixture
def told(monkeypatch):
    messages = []
    monkeypatch.setattr(notify, "send", messages.append)
    return messages


def test_the_notification_links_to_the_report(monkeypatch, home, told):
    begin(monkeypatch, home)
    release = train(harvest(home))
    judge(release)
    deploy(release)
    night.tell(0, "validation", 805, {})
    (message,) = told
    assert message.link == f"{get_settings().council_url}/reports/20261123"
    assert message.facts["Held-out"] == "15.6% → 37.5%" and message.facts["p95"] == "2000 → 1900 ms"
    assert message.verdict.startswith(f"A new adapter, {release.name}, serves")
    assert (home / "logs" / "report_20261123.html").exists()


def test_a_report_that_fails_is_told_and_does_not_fail_the_night(monkeypatch, home, told):
    begin(monkeypatch, home)
    (home / "logs" / "report_20261123.html").mkdir(parents=True)
    assert night.tell(10, "training", 1, {}) == 0
    assert any("The morning report could not be written" in line for line in told[0].lines)
    assert told[0].link == ""
