"""Messages to prompt tokens, and tokens back to text as they come."""

import re

from agent0.command import USAGE, CouncilError


def _letters() -> dict[str, int]:
    """The letter for each byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`), reversed."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


LETTERS = _letters()


class Prompter:
    """The chat template and tokenizer of the base model. Raises CouncilError where the model has no template."""

    def __init__(self, tokenizer):
        if not tokenizer.chat_template:
            raise CouncilError(f"{tokenizer.name_or_path} has no chat template; use an instruct model", USAGE)
        self.tokenizer, self._added = tokenizer, tokenizer.added_tokens_decoder
        self._special = [token.content for token in self._added.values() if token.special]
        self._byte_level = "\u0120" in tokenizer.get_vocab()  # the letter for a space

    def encode(self, messages: list[dict]) -> list[int]:
        """Return the prompt of a chat as tokens. Raises ValueError where the template refuses the messages."""
        harmless = [{**message, "content": self._defuse(message["content"])} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(harmless, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # templates are the model's own programs and raise what they like
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error
        return self.tokenizer.encode(text, add_special_tokens=False)

    def constant_prefix(self) -> list[int]:
        """The tokens with which every chat of a single user message starts."""
        prompts = [self.encode([{"role": "user", "content": word}]) for word in ("Why", "7")]
        return prompts[0][: common_length(*prompts)]

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for in UTF-8: a part of a character, perhaps; nothing where the vocabulary has none."""
        piece = self.tokenizer.convert_ids_to_tokens(token) or ""
        if token in self._added:
            return piece.encode()
        if self._byte_level:
            return bytes(LETTERS[letter] for letter in piece)
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)  # SentencePiece's
        return bytes.fromhex(byte[1]) if byte else piece.replace("\u2581", " ").encode()

    def _defuse(self, text: str) -> str:
        """Users' text is data: a control token inside it must not end their message and start another."""
        for token in self._special:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
        return text


def common_length(one: list[int], other: list[int]) -> int:
    """How many tokens two lists share from their start."""
    differs = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


class Transcript:
    """The text of the tokens so far, cut at the first stop string."""

    def __init__(self, tokenizer, stops: list[str]):
        self.text, self.stopped = "", False
        self._tokenizer, self._stops = tokenizer, stops
        self._tokens: list[int] = []
        self._settled = self._read = self._given = 0

    def push(self, token: int) -> None:
        """Add one token; tokens that are parts of one character show once it is complete."""
        self._tokens.append(token)
        self._advance(final=False)

    def new_text(self, final: bool = False) -> str:
        """What can be shown since the last call: all but a beginning of a stop string (unless final)."""
        if final and not self.stopped:
            self._advance(final=True)
        held = 0 if final or self.stopped else self._possible_stop()
        start, self._given = self._given, len(self.text) - held
        return self.text[start : self._given]

    def _advance(self, final: bool) -> None:
        """Decode a few tokens back, since a token's text may depend on the one before it."""
        before = self._decode(self._tokens[self._settled : self._read])
        after = self._decode(self._tokens[self._settled :])
        if len(after) > len(before) and (final or not after.endswith("\ufffd")):
            self._append(after[len(before) :])
            self._settled, self._read = self._read, len(self._tokens)

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def _append(self, text: str) -> None:
        start = max(0, len(self.text) - max(map(len, self._stops), default=1) + 1)
        self.text += text
        found = [at for stop in self._stops if (at := self.text.find(stop, start)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _possible_stop(self) -> int:
        """Length of the longest end of the text that a stop string starts with."""
        lengths = [n for stop in self._stops for n in range(1, len(stop)) if self.text.endswith(stop[:n])]
        return max(lengths, default=0)
