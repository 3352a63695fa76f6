"""The peer of bench/harvest.py: the same calls through bespokelabs-curator. Runs in an interpreter of its own."""

import contextlib
import json
import sys
import time


class Words:
    """Counts tokens as words: what curator would use downloads its vocabulary. This can only make it faster."""

    def encode(self, text: str, **_) -> list[str]:
        return text.split()


def count_tokens_offline() -> None:
    import tiktoken

    tiktoken.encoding_for_model = tiktoken.get_encoding = lambda _: Words()


def main() -> None:
    options = json.loads(sys.argv[1])
    count_tokens_offline()
    from bespokelabs import curator
    from datasets import Dataset

    limits = {"max_requests_per_minute": 10**6, "max_tokens_per_minute": 10**9, "require_all_responses": False}
    parameters = {
        "base_url": f"{options['url']}/v1",
        "max_retries": options["tries"] - 1,
        "max_concurrent_requests": options["concurrency"],
        "request_timeout": options["timeout"],
        **limits,
    }

    class Proposer(curator.LLM):
        def prompt(self, row: dict) -> str:
            return row["question"]

        def parse(self, row: dict, response: str) -> dict:
            return {"question": row["question"], "answer": response}

    questions = Dataset.from_dict({"question": [f"Why does river number {n} flow?" for n in range(options["calls"])]})
    with contextlib.redirect_stdout(sys.stderr):
        proposer = Proposer(model_name="flaky", backend="openai", backend_params=parameters)
        start = time.monotonic()
        answers = proposer(questions)
        seconds = time.monotonic() - start
        rows = getattr(answers, "dataset", answers)
    print(json.dumps({"seconds": seconds, "answered": sum(bool(row["answer"]) for row in rows)}))


if __name__ == "__main__":
    main()
