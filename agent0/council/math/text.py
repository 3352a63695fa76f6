"""A question as the rules read it: lower case, one spelling for each sign, no courtesies."""

import re

from agent0.values import digits

_SIGNS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-", "—": "-", "’": "'", "²": "^2", "³": "^3"})
_COURTESY = r"(?:please|hi|hello|hey|(?:could|can|would) you(?: please)?(?: tell me)?|tell me|i wonder)"
_OPENING = re.compile(rf"^(?:{_COURTESY}[,!:]? )+")
_CLOSING = re.compile(r"(?:[ .,…?!:=]|,? please|,? thanks?(?: you)?)+$")
_LONGEST = 400  # characters: an everyday question is shorter, and patterns stay fast


def clean(question: str) -> str:
    """Return the question in the form that patterns are written for, or "" if it is too long to be one."""
    if len(question) > _LONGEST:
        return ""
    text = digits(question.translate(_SIGNS).lower())
    text = re.sub(r"\s+", " ", text).strip()
    if re.search(r", ?(?:\.{3}|…)", text) and not re.search(r"\b(?:next|sequence|series|pattern)\b", text):
        return ""  # a list that goes on: its end is not said
    if re.search(r"[\d)] ?!", text):
        return ""  # a factorial, or a shout: it cannot be told
    text = re.sub(r"\b([ap])\.m\.?(?=\W|$)", r"\1m", text)
    text = _CLOSING.sub("", _OPENING.sub("", text))
    return re.sub(r"(\d) ?percent\b|(\d) %", r"\1\2%", text)
