"""Log-probabilities of an answer's tokens under the model itself, in the form of OpenAI's `logprobs.content`."""

from codecs import getincrementaldecoder

from torch import Tensor

from agent0.serve.text import Prompter


class Piece(str):
    """A piece of a streamed answer that brings the log-probabilities of its tokens."""

    logprobs: list[dict]

    @classmethod
    def of(cls, text: str, logprobs: list[dict]) -> "Piece":
        piece = cls(text)
        piece.logprobs = logprobs
        return piece


class Logprobs:
    """The entries of one answer, each with the `count` most probable tokens of its place, told with their text."""

    def __init__(self, prompter: Prompter, count: int):
        self._prompter, self._count = prompter, count
        self._entries: list[dict] = []
        self._starts: list[int] = []  # the character of the answer at which each token begins
        self._reader = getincrementaldecoder("utf-8")("replace")
        self._length = self._told = self._shown = 0

    def add(self, token: int, log_probability: float, logits: Tensor) -> None:
        """Note a token of the answer, chosen from `logits` (vocabulary)."""
        entry = self._entry(token, log_probability)
        values, tokens = logits.topk(min(self._count, len(logits)))
        alternatives = zip(tokens.tolist(), (values - logits.logsumexp(-1)).tolist(), strict=True)
        self._entries.append({**entry, "top_logprobs": [self._entry(*alternative) for alternative in alternatives]})
        self._starts.append(self._length)
        self._length += len(self._reader.decode(bytes(entry["bytes"])))

    def told_with(self, text: str) -> list[dict]:
        """The entries of what is shown next: of the tokens that begin in it."""
        self._shown += len(text)
        first = self._told
        while self._told < len(self._entries) and self._starts[self._told] < self._shown:
            self._told += 1
        return self._entries[first : self._told]

    def of(self, text: str, stopped: bool) -> list[dict]:
        """The entries of the whole answer; where a stop string has cut it, without those of the string."""
        if not stopped:
            return self._entries
        return [entry for start, entry in zip(self._starts, self._entries, strict=True) if start < len(text)]

    def _entry(self, token: int, log_probability: float) -> dict:
        data = self._prompter.token_bytes(token)
        text = data.decode("utf-8", errors="backslashreplace")  # as OpenAI shows a part of a character
        return {"token": text, "logprob": log_probability, "bytes": list(data)}
