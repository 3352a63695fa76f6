"""The member that looks things up: in the user's own texts, and in answers that were confirmed.

It proposes what it finds, with the place where it stands; an answer that several confirmed for the very same question
counts as proven. Text is data: it is quoted, never followed.
"""

import re
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from agent0.agreement import answers_agree, final_answer, numbers
from agent0.guard.injection import suspicious
from agent0.guard.privacy import holds_secret, scrub
from agent0.quality import normalise
from agent0.records import Rewrite
from agent0.settings import get_settings
from agent0.values import digits
from faiss_memory import FaissMemory

NEAR_TEXT = 0.52  # cosine of question and paragraph; a test measures both sides of it
NEAR_QUESTION = 0.9  # cosine of two questions that ask the same in other words
_CONFIRMATIONS = 2  # of the same answer to the very same question, which prove it
_LONGEST = 1000  # characters of a paragraph; the embedder reads about so many
_SUFFIXES = {".txt", ".md", ".rst"}


class KnowledgeMember:
    """Proposes a paragraph of KNOWLEDGE_PATH or a confirmed answer of the memory; silent when nothing is near."""

    name = "knowledge"
    costly = True  # what it finds needs votes, save where `proves` says otherwise

    def __init__(self, memory: FaissMemory | None = None):
        self._memory, self._lock = memory, threading.Lock()
        self._texts: FaissMemory | None = None
        self._confirmed: dict[str, list[dict]] | None = None

    def proves(self, question: str) -> bool:
        """Whether the very same question has an answer that was confirmed often enough and never contradicted."""
        return self._settled(question) is not None

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        """Return the settled answer, else the nearest confirmed one, else the nearest paragraph, else None."""
        if settled := self._settled(question):
            return self._quote(settled["response"], "Users confirmed this answer.", "knowledge:confirmed")
        return self._similar(question) or self._paragraph(question)

    def _settled(self, question: str) -> dict | None:
        records = self._known().get(normalise(question), [])
        confirmed = [record for record in records if _confirms(record)]
        if not confirmed:
            return None
        answer = final_answer(confirmed[-1]["response"])
        if any(answers_agree(record["response"], answer) != _confirms(record) for record in records):
            return None  # another answer is confirmed, too, or this one was denied
        if len({_facts(record["response"]) for record in confirmed}) > 1:
            return None  # they agree on a number, but not on all else
        people = {record["user"] for record in confirmed}  # all who give no name may be one
        return confirmed[-1] if len(people) >= _CONFIRMATIONS else None

    def _similar(self, question: str) -> Rewrite | None:
        if not any(_confirms(record) for records in self._known().values() for record in records):
            return None
        turns = _turns(question)
        found = self._open().query(question, 5)
        near = [r for r in found if r["score"] >= NEAR_QUESTION and _confirms(r) and _turns(r["query"]) == turns]
        if not near:
            return None
        return self._quote(near[0]["response"], f"A user confirmed this answer to “{scrub(near[0]['query'])}”.")

    def _paragraph(self, question: str) -> Rewrite | None:
        texts = self._library()
        found = texts.query(question, 1) if texts else []
        if not found or found[0]["score"] < NEAR_TEXT:
            return None
        return self._quote(found[0]["query"], f"So says {found[0]['response']}.")

    def _quote(self, text: str, reasoning: str, proof: str | None = None) -> Rewrite | None:
        if holds_secret(text) or suspicious(text) or scrub(text) != text:
            return None  # the pool would not take it, and jurors may be other people's machines
        return Rewrite(
            member=self.name,
            reasoning=reasoning,
            output=text,
            result=final_answer(text),
            kind="knowledge",
            proof=proof,
        )

    def _open(self) -> FaissMemory:
        with self._lock:
            self._memory = self._memory or FaissMemory()
        return self._memory

    def _known(self) -> dict[str, list[dict]]:
        """The answers that got a verdict, by question; read once a harvest."""
        memory = self._open()
        with self._lock:
            if self._confirmed is None:
                self._confirmed = defaultdict(list)
                for record in memory.meta:
                    if (record["feedback"] or {}).get("success") is not None:
                        self._confirmed[normalise(record["query"])].append(record)
            return self._confirmed

    def _library(self) -> FaissMemory | None:
        """The paragraphs as a memory of their own, named after their content: other content makes another."""
        with self._lock:
            if self._texts is None:
                chunks = list(paragraphs(get_settings().knowledge_path))
                self._texts = _shelve(chunks) if chunks else None
            return self._texts


def paragraphs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (paragraph, "file, paragraph n") of each text file below the folder; what is not UTF-8 is passed over."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, paragraph in enumerate(filter(str.strip, re.split(r"\n\s*\n", text)), 1):
            yield " ".join(paragraph.split())[:_LONGEST], f"{path.relative_to(folder)}, paragraph {number}"


def _turns(question: str) -> list[str]:
    """What turns a question into another one and hardly moves its embedding: numbers, denials, tenses."""
    words = r"\d+(?:[.,:/]\d+)*|\b(?:not|no|never|without|least|first|last|was|were|did|will|before|after)\b|n't\b"
    return sorted(re.findall(words, digits(question.replace("’", "'")).casefold()))


def _facts(response: str) -> tuple[frozenset[str], ...]:
    """What two answers to one question must share to say the same: yes or no, numbers, names."""
    said = re.findall(r"^\W*(yes|no)\b", response.lower())
    return tuple(map(frozenset, (said, numbers(response), re.findall(r"(?<=[a-z,;] )[A-Z]\w+", response))))


def _confirms(record: dict) -> bool:
    return bool(record["success"] and (record["feedback"] or {}).get("success"))


def _shelve(chunks: list[tuple[str, str]]) -> FaissMemory:
    digest = sha256(repr(chunks).encode(errors="replace")).hexdigest()[:16]
    shelf = get_settings().memory_path / "knowledge"
    done = shelf / digest / "complete"
    if not done.exists():
        shutil.rmtree(shelf, ignore_errors=True)
        texts = FaissMemory(shelf / digest)
        for paragraph, place in chunks:
            texts.add(paragraph, {"response": place, "success": True})
        done.touch()
        return texts
    return FaissMemory(shelf / digest)
