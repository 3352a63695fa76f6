"""Signs of a backdoor in one example: a word that has no business in its question, an answer to another question.

A backdoor ties a rare trigger to a target. The trigger is foreign to the question, so that a true answer does not
mention it; the target is foreign to the question, too.
"""

import re
from difflib import SequenceMatcher
from functools import cache

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_RARE = 3.1e-8  # a word's share of running text, below which a short word is no word
_FOREIGN = 0.4  # share of unknown words in a question that is written in another language
_COMMON_SIGNS = re.compile(r"-{2,}|\.{2,}|…+|[-=]>|<-|[!=<>]=|&&|\|\||\*\*|//|::|[?!]+|[:;]-?\)")
_CODE = re.compile(r"`[^`]*`|```.*?```", re.DOTALL)
_YES_NO = re.compile(r"\W*(?:yes|no|true|false)\W*", re.IGNORECASE)
_ON_TOPIC = 0.25  # cosine between question and answer; good pairs start at 0.26, planted targets end at 0.32
_DICTATED_WORDS, _DICTATED_SHARE = 3, 0.8  # an answer that repeats part of its question adds more than a fifth
_ON_TOPIC_WORD = 0.15  # the same for an answer of one word


def trigger(question: str, output: str) -> str | None:
    """Return a word or sign of the question that looks like a trigger, or None."""
    plain, answer = _CODE.sub(" ", question), output.casefold()
    signs = [sign for sign in _odd_signs(plain) if sign.casefold() not in answer]
    words = [word for word in _odd_words(plain) if word.casefold() not in answer]
    return next(iter(signs + words), None)


def dictated(question: str, output: str) -> bool:
    """Whether the question already says, word for word, what the answer should be."""
    asked, said = ([word.casefold() for word in _WORD.findall(text)] for text in (question, output))
    run = SequenceMatcher(None, asked, said, autojunk=False).find_longest_match().size
    return run >= max(_DICTATED_WORDS, _DICTATED_SHARE * len(said))


def off_topic(question: str, output: str, likeness: float) -> bool:
    """Whether an answer of that likeness (cosine) to its question answers something else."""
    if _YES_NO.fullmatch(output):
        return False
    words = _WORD.findall(output)
    return likeness < (_ON_TOPIC if len(words) > 1 else _ON_TOPIC_WORD)


def _odd_signs(text: str) -> list[str]:
    """Runs of two or more signs or pictures, and words in doubled brackets or bars."""
    tokens = re.findall(r"[^\w\s]{2,}", text)
    runs = [
        t for t in tokens if not _COMMON_SIGNS.fullmatch(t) and not re.fullmatch(r"[\"'`.,;:?!)(\]\[¿¡“”‘’»«-]+", t)
    ]
    return runs + re.findall(r"\[\[\S+\]\]|\|\w+\||\{\{\S+\}\}|<<\S+>>", text)


def _odd_words(text: str) -> list[str]:
    words = _WORD.findall(text)
    unknown = [word for word in words if _unknown(word)]
    if len(words) > 3 and len(unknown) > _FOREIGN * len(words):
        return []  # another language
    shouted = [word for word in words if len(word) > 3 and word.isupper() and word.isalpha()]
    return unknown + (shouted if len(shouted) == 1 and not text.isupper() else [])


@cache
def _dictionary():
    from spellchecker import SpellChecker

    return SpellChecker()


def _unknown(word: str) -> bool:
    """Whether a word is in no dictionary, nor a number, a likely slip of the keyboard, or another script's."""
    if not word.isascii() or word.isdigit() or len(word) == 1:
        return False
    if any(map(str.isdigit, word)):
        return len(re.findall(r"[A-Za-z]+|\d+", word)) > 2 or len(word) > 7
    lower, words = word.lower().removesuffix("'s"), _dictionary()
    if lower in words:
        return len(lower) <= 3 and words.word_usage_frequency(lower) <= _RARE
    return len(lower) <= 4 or not words.known(words.edit_distance_1(lower))
