"""What is killed, and what must hold afterwards: a prepared home, the work, the check, and the work once more."""

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import harvest_failures
from agent0 import adapters, ledger, rollout, train
from agent0.council.answers import Answers
from agent0.council.endpoint import EndpointMember
from agent0.council.math import MathMember
from agent0.recipe import choose_recipe
from agent0.records import TrainingExample, read_jsonl
from agent0.settings import ROOT, get_settings
from agent0.store import database
from agent0.windows import day_window
from faiss_memory import FaissMemory

sys.path.insert(0, str(ROOT / "tests" / "unit"))
lora_kit, council_stub = importlib.import_module("lora_kit"), importlib.import_module("council_stub")
words_embedder = importlib.import_module("test_faiss_memory").words_embedder
Say = Callable[[str], None]
YESTERDAY = date.today() - timedelta(1)
RECORD = {"response": "It is 41." * 40, "success": False}


class Scenario:
    """One kind of work. `prepare` fills a home, `work` says what it acknowledges, `check` looks at what is left."""

    def prepare(self) -> None:
        """Fill COUNCIL_HOME."""

    def work(self, say: Say) -> None:
        raise NotImplementedError

    def check(self, said: list[str]) -> None:
        """Raise AssertionError where something acknowledged is lost, doubled or broken, or cannot go on."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop what `prepare` started."""


class AddAndFeedback(Scenario):
    checkpoint_every = 4

    def work(self, say: Say) -> None:
        database.CHECKPOINT_EVERY = self.checkpoint_every
        memory = FaissMemory()
        for number in range(10):
            say(f"added {memory.add(f'What is {number} + 40?', RECORD)}")
            if number % 2:
                memory.feedback(id := memory.meta[-1]["id"], success=True, correction="41")
                say(f"judged {id}")
        memory.close()

    def check(self, said: list[str]) -> None:
        memory = FaissMemory()
        kept = {record["id"]: record for record in memory.meta}
        assert len(kept) == len(memory.meta)
        for word, id in (line.split() for line in said):
            assert id in kept, f"lost: {word} {id}"
            assert word == "added" or kept[id]["feedback"]["correction"] == "41", f"lost: {word} {id}"
        assert memory.health()["trouble"] == ""
        assert memory.get(memory.add("more", RECORD))
        memory.close()


class Forget(Scenario):
    def prepare(self) -> None:
        memory = FaissMemory()
        for number in range(12):
            memory.add(f"q{number}", {**RECORD, "timestamp": number})
        memory.close()

    def work(self, say: Say) -> None:
        FaissMemory().forget(6)

    def check(self, said: list[str]) -> None:
        memory = FaissMemory()
        assert {f"q{number}" for number in range(6, 12)} <= {record["query"] for record in memory.meta}
        memory.forget(6)
        assert len(memory.meta) == 6 and memory.health()["trouble"] == ""
        memory.close()


class Embed(Forget):
    def memory(self) -> FaissMemory:
        memory = FaissMemory()
        memory._index._embed = words_embedder(64)
        return memory

    def work(self, say: Say) -> None:
        database.PAGE = 4
        memory = self.memory()
        memory.embed()
        memory.rebuild()
        memory.forget(6)

    def check(self, said: list[str]) -> None:
        memory = self.memory()
        wanted = [record["query"] for record in memory.meta]
        found = memory.query("q7", 99)
        assert found[0]["query"] == "q7"
        assert sorted(record["query"] for record in found) == sorted(wanted)
        memory.close()


class Harvest(Scenario):
    def prepare(self) -> None:
        memory, window = FaissMemory(), day_window(YESTERDAY)
        for number in range(4):
            memory.add(f"What is {number + 3} * 17?", {**RECORD, "timestamp": window.since + number})
        memory.close()

    def work(self, say: Say) -> None:
        memory = FaissMemory()
        harvester = harvest_failures.FailureHarvester(memory, [MathMember()], words_embedder(64))
        for example in harvester.harvest(day_window(YESTERDAY)).examples:
            say(example.id)
        memory.close()

    def check(self, said: list[str]) -> None:
        self.work(lambda _: None)
        (file,) = get_settings().training_data.glob("harvest_*.jsonl")
        examples = list(read_jsonl(file, TrainingExample))
        assert len(examples) == len({example.answer_id for example in examples}) == 4
        assert set(said) <= {example.id for example in examples}
        ledger.read()


class Calls(Scenario):
    """A member that costs money: an OpenAI-compatible endpoint that counts what it is asked."""

    def prepare(self) -> None:
        scenario = self
        self.asked = 0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                scenario.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                choice = {"message": {"content": "8/10"}, "finish_reason": "stop"}
                body = json.dumps({"choices": [choice]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Keep the output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def work(self, say: Say) -> None:
        answers = Answers(get_settings().memory_path / "council.db")
        member = EndpointMember(f"http://127.0.0.1:{self.server.server_port}", "m", answers=answers)
        for number in range(4):
            member.judge(f"question {number}", "answer")
            say(str(number))
        answers.close()

    def check(self, said: list[str]) -> None:
        paid = self.asked
        self.work(lambda _: None)
        assert self.asked - paid <= 4 - len(said), "a call that was paid for was paid again"
        self.asked = 0

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Releases(Scenario):
    """Three releases; the second serves, the first is the way back, the third is the newest."""

    def prepare(self) -> None:
        adapters.ensure_base()
        first, second, third = (lora_kit.make_release(seed) for seed in (1, 2, 3))
        for link, release in ((adapters.stamped("rollback"), first), ("current", second), ("latest", third)):
            adapters.point(link, release)

    def check(self, said: list[str]) -> None:
        serves = adapters.target("current")
        assert serves, "current leads nowhere"
        for link in ("current", "latest"):
            adapters.validate(adapters.target(link).path)
        for release in adapters.releases():
            adapters.validate(release.path)
        names = [release.name for release in adapters.releases()]
        assert not said or names.index(serves.name) >= names.index(said[-1]), "current went back"
        self.work(lambda _: None)
        adapters.validate(adapters.target("current").path)


class PointLinks(Releases):
    def work(self, say: Say) -> None:
        for release in adapters.releases():
            adapters.point("current", release)
            say(release.name)


class PublishTraining(Releases):
    def work(self, say: Say) -> None:
        recipe = choose_recipe(5, get_settings())
        staging = lora_kit.stage(seed=time.time_ns() % 2**32)
        release = train.publish([], recipe, adapters.ensure_base(), {"loss": 1.0}, staging)
        assert adapters.target("latest") == release


class Prune(Releases):
    def prepare(self) -> None:
        super().prepare()
        for seed in range(10, 14):
            adapters.point(adapters.stamped("failed"), lora_kit.make_release(seed))

    def work(self, say: Say) -> None:
        adapters.prune(1)
        assert adapters.rollback_targets()[0].manifest["example_ids"] == ["e1"]


class Rollback(Releases):
    """With the server down: the links move all the same."""

    def prepare(self) -> None:
        super().prepare()
        os.environ["COUNCIL_URL"] = "http://127.0.0.1:9"  # where nobody is, whoever else serves on this machine
        get_settings.cache_clear()

    def work(self, say: Say) -> None:
        self.call(["rollback"], (0, 10))
        say(adapters.target("current").name)

    def call(self, arguments: list[str], codes: tuple[int, ...]) -> None:
        sys.argv = ["rollout", *arguments]
        code = rollout.main()
        assert code in codes, f"{arguments}: exit {code}"


class Deploy(Rollback):
    """With a scripted server in the parent, which lives on."""

    def prepare(self) -> None:
        super().prepare()
        self.stub = council_stub.Stub().start()

    def work(self, say: Say) -> None:
        with self._server():
            self.call(["deploy", "loras/latest"], (0, 10, 20))
            say(adapters.target("current").name)

    def check(self, said: list[str]) -> None:
        with self._server():
            super().check(said)
        assert self.stub.stable == adapters.target("current").name

    @contextlib.contextmanager
    def _server(self):
        os.environ |= {"COUNCIL_URL": self.stub.url, "MONITOR_DURATION": "0.02"}
        get_settings.cache_clear()
        yield
        for name in ("COUNCIL_URL", "MONITOR_DURATION"):
            os.environ.pop(name, None)
        get_settings.cache_clear()

    def close(self) -> None:
        self.stub.stop()


class Ledger(Scenario):
    def work(self, say: Say) -> None:
        for number in range(4):
            ledger.append("night", number=number)
            say(str(number))

    def check(self, said: list[str]) -> None:
        assert [str(event["number"]) for event in ledger.read("night")][: len(said)] == said
        ledger.append("night", number=9)


ALL = {
    "add and feedback": AddAndFeedback,
    "forgetting": Forget,
    "embedding": Embed,
    "harvest": Harvest,
    "council calls": Calls,
    "moving current": PointLinks,
    "publishing a training": PublishTraining,
    "clean-up": Prune,
    "rollback": Rollback,
    "deployment": Deploy,
    "ledger": Ledger,
}


def base_model(folder: Path) -> None:
    """Make the tiny base model that all homes share."""

    class Environment:
        setenv = staticmethod(os.environ.__setitem__)

    lora_kit.make_base(folder, Environment)
