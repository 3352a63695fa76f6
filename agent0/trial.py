"""A candidate between its first question and the verdict: promoted, held, or withdrawn."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from agent0 import adapters, fingerprint, ledger
from agent0.adapters import Release
from agent0.client import CouncilClient
from agent0.command import DONE, REFUSED, ROLLED_BACK, CouncilError, log
from agent0.council.panel import Panel
from agent0.evidence import Evidence, Thresholds
from agent0.records import Question, write_json
from agent0.settings import get_settings
from agent0.switch import journal, noted_signals, serve, try_serve, unload_release
from agent0.verdict import HOLD, ROLL_BACK, Verdict
from agent0.watch import SHARES, Watch

DEPLOYED, WITHDRAWN = "deployment_summary.json", "rollback_summary.json"


@dataclass
class Trial:
    """loras/current moves only on promotion; with DEPLOY_MODE=direct, before the watch."""

    client: CouncilClient
    candidate: Release
    previous: Release
    questions: list[Question] = field(default_factory=list)
    panel: Panel = field(default_factory=Panel)
    started: float = field(default_factory=time.time)
    watch: Watch | None = None
    switched: bool = False  # current points to the candidate
    timings: dict[str, float] = field(default_factory=dict)

    def run(self) -> int:
        """Watch, and promote, hold or withdraw; whatever goes wrong before the verdict withdraws."""
        with noted_signals() as signals:
            try:
                judged = self._judge(signals)
                if judged.promoted:
                    return self._promote(judged)
            except Exception as error:
                reason = str(error) if isinstance(error, CouncilError) else f"unexpected {error!r}"
                judged = Verdict(ROLL_BACK, reason, decided_by="an error before the verdict")
            return self._hold(judged) if judged.end == HOLD else self.withdraw(judged)

    def _judge(self, signals: list[str]) -> Verdict:
        names = {"candidate": self.candidate.name, "previous": self.previous.name}
        write_json(journal(), {**names, "started": self.started})
        fingerprint.check(self.client, self.candidate.path, self.candidate.name)
        direct = get_settings().deploy_mode == "direct"
        if direct:
            self._switch()
        asked = (self.client, self.previous, self.candidate, self.questions, self.panel)
        self.watch = Watch(*asked, () if direct else SHARES, stopped=lambda: bool(signals))
        log.info("%s is on trial beside %s, which is the way back", self.candidate.name, self.previous.name)
        self.watch.run()
        if signals:
            raise CouncilError(f"stopped by {signals[0]}")
        expected = self.candidate if direct else self.previous
        if not self.watch.failure and (adapters.target("current") or adapters.ensure_base()) != expected:
            raise CouncilError(f"loras/current is not {expected.name} any more: somebody else moved it")
        return self.watch.judge.verdict(self.watch.failure)

    def _switch(self) -> None:
        """Make the candidate current, in links and on the server."""
        adapters.point(adapters.stamped("rollback"), self.previous)
        self.switched = True
        adapters.point("current", self.candidate)
        serve(self.client, self.candidate)

    def _promote(self, judged: Verdict) -> int:
        if not self.switched:
            self._switch()
        summary = self._summary("promoted", judged)
        taken = {"improvement": judged.improvement, "seconds": summary["timings"]["seconds"]}
        ledger.append("deployment", release=self.candidate.name, previous=self.previous.name, **taken)
        write_json(self.candidate.path / DEPLOYED, summary)
        adapters.drop_links("failed", self.candidate)  # it has earned its place now
        journal().unlink()
        unload_release(self.client, self.previous)
        log.info("%s is promoted over %s: %s", self.candidate.name, self.previous.name, judged.reason)
        return DONE

    def _hold(self, judged: Verdict) -> int:
        """Let the previous release go on serving, and keep the candidate unmarked: another day may decide."""
        trouble = self._go_back()
        summary = {**self._summary("hold", judged), "server": trouble or "the server serves the previous release"}
        with written_down(self.previous, REFUSED):
            ledger.append("hold", release=self.candidate.name, serving=self.previous.name, reason=judged.reason)
            write_json(self.candidate.path / DEPLOYED, summary)
        journal().unlink()
        log.info("hold: %s goes on serving, %s is kept: %s", self.previous.name, self.candidate.name, judged.reason)
        return REFUSED

    def withdraw(self, judged: Verdict) -> int:
        """Let the previous release serve again, and write down why."""
        trouble = self._go_back()
        summary = {
            **self._summary("rolled back", judged),
            "server": trouble or "the server serves the previous release",
        }
        with written_down(self.previous, ROLLED_BACK):
            record_rollback(self.candidate, self.previous, summary, "monitor")
        journal().unlink(missing_ok=True)
        log.info("%s is rolled back, %s serves again: %s", self.candidate.name, self.previous.name, judged.reason)
        return ROLLED_BACK

    def _go_back(self) -> str | None:
        """Serve the previous release alone, in links and on the server; return what went wrong there."""
        began = time.monotonic()
        self.timings["verdict"] = time.time()
        trouble = try_serve(self.client, self.previous)
        self.timings["verdict_to_previous_seconds"] = round(time.monotonic() - began, 3)
        if adapters.target("current") != self.previous:
            adapters.point("current", self.previous)
        if not trouble:
            unload_release(self.client, self.candidate)
        return trouble

    def _summary(self, outcome: str, judged: Verdict) -> dict:
        settings, finished = get_settings(), time.time()
        spent = {"started": self.started, "finished": finished, "seconds": round(finished - self.started, 3)}
        evidence = self.watch.evidence if self.watch else Evidence()
        return {
            "verdict": outcome,
            "release": self.candidate.name,
            "previous": self.previous.name,
            "reason": judged.reason,
            "decided_by": {"rule": judged.decided_by, "run": settings.council_night or "by hand"},
            "improvement": judged.improvement,
            "bars": [asdict(bar) for bar in judged.bars],
            "capital": judged.capital,
            "steps": self.watch.steps if self.watch else [],
            "evidence": evidence.summary(),
            "thresholds": asdict(Thresholds.of(settings)),
            "timings": {**spent, **self.timings},
            "settings": settings.public(),
        }


@contextlib.contextmanager
def written_down(serving: Release, exit_code: int) -> Iterator[None]:
    """Turn a disk that takes no more into one line and this exit code; a journal that is there tells the next run."""
    try:
        yield
    except OSError as error:
        told = f"{serving.name} serves, but what happened cannot be written down: {error}; make room on the disk"
        raise CouncilError(told, exit_code) from None


def record_rollback(out: Release, back: Release, summary: dict, source: str) -> None:
    """Mark what was taken out as failed, and tell both releases and the ledger."""
    if not out.is_base and out.path.exists():
        adapters.point(adapters.stamped("failed"), out)
        write_json(out.path / WITHDRAWN, summary)
    write_json(back.path / WITHDRAWN, summary)
    ledger.append("rollback", release=out.name, to=back.name, reason=summary["reason"], source=source)


def recover(client: CouncilClient) -> bool:
    """Withdraw the candidate of a deployment that was cut off (power, kill -9) before its verdict; say if one was."""
    left = adapters.interrupted()
    if left is None:  # or it was cut off after its verdict
        journal().unlink(missing_ok=True)
        return False
    candidate, previous = (Release(adapters.adapters_folder() / left[key]) for key in ("candidate", "previous"))
    trial = Trial(client, candidate, previous, started=left["started"])
    trial.withdraw(Verdict(ROLL_BACK, "the deployment was cut off before its verdict"))
    return True
