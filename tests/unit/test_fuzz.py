"""The server against requests drawn from its own OpenAPI schema, valid and not: it may refuse, but never fail.

FUZZ_EXAMPLES=1000 (`make fuzz`) asks more of each path, with new draws each time.
"""

import contextlib
import os

import pytest
import schemathesis
from council_stub import Behaviour
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from scripted_engine import Running
from tiny_council import save_base

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
HOW = settings(
    max_examples=EXAMPLES or 8,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate] + [Phase.shrink] * bool(EXAMPLES),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def server(home, monkeypatch):
    """The real HTTP server over a scripted engine, which answers at once."""
    save_base(home / "tiny", monkeypatch)
    running = Running().start()
    running.engine.behaviours["base"] = Behaviour()
    yield running
    running.kill()


@pytest.mark.timeout(3600 if EXAMPLES else 120)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_makes_the_server_fail(server, mode):
    schema, asked = schemathesis.openapi.from_url(f"{server.url}/openapi.json"), []
    for found in schema.get_all_operations():
        operation = found.ok()

        @HOW
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case):
            response = case.call(timeout=30)
            asked.append(case.operation.label)
            assert response.status_code < 500, f"{case.as_curl_command()}\n{response.text}"
            if case.path.startswith("/v1/") and response.status_code >= 400:
                assert response.json()["error"]["message"], case.as_curl_command()

        with contextlib.suppress(Unsatisfiable):  # a path that takes nothing cannot be asked wrongly
            ask()
    assert {"POST /v1/chat/completions", "POST /v1/feedback", "POST /v1/route", "POST /v1/load_lora_adapter"} <= set(
        asked
    )
