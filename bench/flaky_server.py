"""An OpenAI-compatible endpoint on loopback that answers after a fixed time and fails a share of the calls.

python -m bench.flaky_server --port 9000 --latency 0.08 --fail 0.1 --hang 1.5

A failing call gets 429 with Retry-After, 500, silence, or an answer cut off at the length limit, in turn. GET /count
tells how many calls came, how many were served, and how many seconds they took. Which call fails is seeded, so that two
clients meet the same.
"""

import argparse
import asyncio
import json
import random
from collections import Counter

import uvicorn

SAYS = "REASONING: It follows step by step.\nANSWER: The answer is 36.\nVOTE: 1\nSCORE: 8"
FAILURES = ("429", "500", "hang", "length")


class Flaky:
    """The ASGI application, with its counts."""

    def __init__(self, latency: float, fail: float, hang: float, seed: int = 1):
        self.latency, self.fail, self.hang = latency, fail, hang
        self.random, self.counts, self.seconds = random.Random(seed), Counter(), 0.0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            await (self._count(send) if scope["path"] == "/count" else self._answer(receive, send))

    async def _count(self, send) -> None:
        await _reply(send, 200, {**self.counts, "seconds": self.seconds})

    async def _answer(self, receive, send) -> None:
        while (await receive()).get("more_body"):
            pass
        failing = self.random.random() < self.fail
        outcome = self.random.choice(FAILURES) if failing else "stop"
        self.counts.update([outcome, "calls"])
        seconds = self.hang if outcome == "hang" else self.latency
        self.seconds += seconds
        await asyncio.sleep(seconds)
        if outcome in ("429", "500"):
            await _reply(send, int(outcome), {"error": {"message": "busy"}}, [(b"retry-after", b"0")])
        elif outcome != "hang":
            text = SAYS if outcome == "stop" else SAYS[:20]
            message = {"role": "assistant", "content": text}
            usage = {"prompt_tokens": 50, "completion_tokens": 20, "total_tokens": 70}
            choice = {"index": 0, "message": message, "finish_reason": outcome}
            fixed = {"id": "c", "object": "chat.completion", "created": 1, "model": "flaky"}
            await _reply(send, 200, {**fixed, "choices": [choice], "usage": usage})
            self.counts["served"] += outcome == "stop"


async def _reply(send, status: int, body: dict, headers: list | None = None) -> None:
    data = json.dumps(body).encode()
    fixed = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fixed + (headers or [])})
    await send({"type": "http.response.body", "body": data})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.08, help="seconds a call takes")
    parser.add_argument("--fail", type=float, default=0.1, help="share of calls that fail")
    parser.add_argument("--hang", type=float, default=1.5, help="seconds of silence before a hanging call is dropped")
    arguments = parser.parse_args()
    app = Flaky(arguments.latency, arguments.fail, arguments.hang)
    uvicorn.run(app, port=arguments.port, log_level="error", lifespan="off", access_log=False)


if __name__ == "__main__":
    main()
