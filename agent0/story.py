"""What a run did, as a person reads it at a glance: the verdict, the figures, the reason, the log."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from agent0.command import DONE, FAILED, LOCKED, NOTHING_TO_DO, REFUSED, ROLLED_BACK, USAGE

STOPPED = 143  # the scripts' exit code after a signal
_OUTCOMES = {
    DONE: ("deployed", "info"),
    NOTHING_TO_DO: ("nothing to do", "info"),
    ROLLED_BACK: ("rolled back", "warning"),
    REFUSED: ("candidate not deployed", "warning"),
    USAGE: ("bad setting", "error"),
    LOCKED: ("another run holds the lock", "error"),
    STOPPED: ("stopped", "error"),
    FAILED: ("failed", "error"),
}
_DONE_BY_HAND = {"training": "trained", "rollback": "rolled back"}
_BOOKKEEPING = re.compile(r"\.sh: (started|stopped|exit \d|=====)")


@dataclass(frozen=True)
class Message:
    """One notification: `title` is the outcome, `lines` the story; `fields` go to plain JSON receivers only.

    `verdict` says it in a sentence, `facts` are the figures to see at a glance, and `link` leads to the report.
    """

    event: str
    title: str
    lines: list[str]
    severity: str = "info"
    fields: dict = field(default_factory=dict)
    verdict: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    link: str = ""


def outcome(exit_code: int, kind: str = "night") -> tuple[str, str]:
    """Return in words what an exit code of `kind` says, and its severity: info, warning or error."""
    words, severity = _OUTCOMES.get(exit_code, _OUTCOMES[FAILED])
    return (_DONE_BY_HAND.get(kind, words), severity) if exit_code == DONE else (words, severity)


def compose(kind: str, exit_code: int, events: list[dict], stage: str = "", more: tuple[str, ...] = ()) -> Message:
    """Return the message about one run: the verdict, what its ledger events say, `more` lines, where the log is.

    `stage` is the one that a night ended in; a run that failed ends with the last line of its log, or of that stage.
    """
    words, severity = outcome(exit_code, kind)
    bad = severity == "error"
    title = f"{kind.capitalize()}: {words}" + (f" in {stage}" if bad and stage else "")
    title += f" (exit {exit_code})" if bad else ""
    lines = [*filter(None, map(describe, events)), *more]
    if bad and (line := last_line(stage)):
        lines.append(f"Last line: {line}")
    if path := _log_path():
        lines.append(f"Log: {path}")
    return Message(kind, title, lines, severity, {"exit_code": exit_code, "outcome": words}, facts=facts(events))


def facts(events: list[dict]) -> dict[str, str]:
    """Return the figures of a run that are worth a glance, by name."""
    newest = {event["event"]: event for event in events}
    found = {}
    if gate := newest.get("gate"):
        found["Held-out"] = _before_after(gate)
        if times := gate.get("latency_ms"):
            found["p95"] = f"{times['serving']['p95']:.0f} → {times['candidate']['p95']:.0f} ms"
    if (training := newest.get("training")) and "new_examples" in training:
        found["New examples"] = f"{training['new_examples']} of {training['examples']}"
    return found


def verdict(exit_code: int | None, stage: str, events: list[dict]) -> str:
    """Return in one sentence what a night came to, by its exit code, the stage it ended in and its ledger events."""
    newest = {event["event"]: event for event in events}
    gate, rollback, refusal = (newest.get(name) for name in ("gate", "rollback", "refusal"))
    if exit_code is None:
        return "The night has not ended yet."
    if outcome(exit_code)[1] == "error":
        why = f": {line}" if (line := last_line(stage)) else ""
        return f"The night {_ENDED.get(exit_code, 'failed')} in {stage or 'its first stage'}{why}"
    if exit_code == DONE and (deployed := newest.get("deployment")):
        gain = f": {_before_after(gate)} of the held-out questions right" if gate else ""
        return f"A new adapter, {deployed['release']}, serves in place of {deployed['previous']}{gain}."
    if exit_code == ROLLED_BACK and rollback:
        return f"{rollback['release']} was tried and taken back, {rollback['to']} serves: {rollback['reason']}."
    if held := newest.get("hold"):
        return f"{held['release']} was tried and is kept, {held['serving']} goes on serving: {held['reason']}."
    if exit_code == REFUSED and refusal:
        return f"{refusal['release']} was refused: {refusal['reason']}."
    if gate:
        return f"{gate['release']} was trained, but {gate['serving']} goes on serving: {gate['reason']}."
    if exit_code == NOTHING_TO_DO:
        harvests = [event for event in events if event["event"] == "harvest"]
        failures, accepted = (sum(event[name] for event in harvests) for name in ("failures", "accepted"))
        return f"Nothing was trained: {failures} failures gave {accepted} accepted rewrites, too few new examples."
    return f"The night ended: {outcome(exit_code)[0]}."


_ENDED = {USAGE: "was stopped by a bad setting", LOCKED: "met another run", STOPPED: "was stopped"}


def _before_after(gate: dict) -> str:
    change = gate["suites"].get("held-out", {})
    if "right" not in change:
        return f"{gate['improvement']:+.1%}"
    after = change["right"] + change["gained"] - change["lost"]
    return f"{change['right'] / change['asked']:.1%} → {after / change['asked']:.1%}"


def describe(event: dict) -> str:
    """Return one ledger event as a line for people; empty for the events that they need not see."""

    def say(name: str, form: str = "", factor: float = 1) -> str:
        return "?" if event.get(name) is None else format(event[name] * factor, form)

    match event["event"]:
        case "harvest":
            kept = f", {say('positives')} right answers kept" if event.get("positives") else ""
            done = f"{say('failures')} failures, {say('accepted')} accepted, {say('abstained')} abstained"
            return f"Harvest: {done}{kept}"
        case "training":
            examples = f"{say('examples')} examples ({say('new_examples')} new)"
            return f"Training: {say('release')} on {examples}, loss {say('loss', '.3f')}, {say('seconds', '.0f')} s"
        case "gate":
            return f"Gate: {say('release')} against {say('serving')}: {say('end')}; {say('reason')}"
        case "deployment":
            gain = say("improvement", "+.1f", 100)
            return f"Deployment: {say('release')} in place of {say('previous')}, success {gain} points"
        case "rollback":
            return f"Rollback: {say('release')} out, {say('to')} back: {say('reason')}"
        case "hold":
            return f"Hold: {say('serving')} goes on serving, {say('release')} is kept: {say('reason')}"
        case "refusal":
            return f"Refused: {say('release')}: {say('reason')}"
        case "refusal undone":
            return f"Allowed again: {say('release')}: {say('reason')}"
    return ""


def last_line(stage: str = "") -> str:
    """Return the last line of the run's log, or of that stage in a night's log, that is not the scripts' own."""
    path = _log_path()
    if path is None or not path.exists():
        return ""
    said = path.read_text(encoding="utf-8", errors="replace")
    if f"===== {stage} =====" in said:
        said = said.partition(f"===== {stage} =====")[2].partition(f"===== {stage}: exit")[0].rpartition("\n")[0]
    lines = [line for line in said.splitlines() if line.strip() and not _BOOKKEEPING.search(line)]
    return re.sub(r"^\d{4}-\d\d-\d\dT[\d:]+Z ", "", lines[-1])[:300] if lines else ""


def _log_path() -> Path | None:
    name = os.environ.get("COUNCIL_LOG", "").split(":")[0]
    return Path(name) if name else None
