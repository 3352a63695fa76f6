"""A second way to an answer: a short program that prints it, run in the sandbox (program of thought, PROVE)."""

import ast
import re

from agent0.agreement import answers_agree
from agent0.council.sandbox import run_python
from agent0.values import digits, find_amounts, find_dates, find_times, find_weekdays

_ASKS = re.compile(
    r"\b(?:how (?:many|much|long|far|old|fast|tall|big|heavy|often)|what (?:number|date|day|time|percent\w*|fraction)"
    r"|what(?: is|'s| are| was)|which (?:number|date|day)|when|calculate|compute|solve|convert|evaluate|find)\b",
    re.IGNORECASE,
)


def checkable(question: str) -> bool:
    """Whether a question asks for a number, a date or a time, and gives numbers to work it out from."""
    return bool(_ASKS.search(question)) and bool(_values(question))


def program_agrees(program: str, question: str, answer: str) -> str | None:
    """Return what the program prints, where it computes it from the question's numbers and the answer agrees."""
    if not _computes(program, question):
        return None
    run = run_python(program)
    printed = run.output.strip()
    if not run.ok or "\n" in printed or len(printed) > 100 or not _values(printed):
        return None
    return printed if answers_agree(answer, printed) else None


def _values(text: str) -> list:
    text = digits(text)
    return [*find_amounts(text), *find_dates(text), *find_times(text), *find_weekdays(text)]


def _computes(program: str, question: str) -> bool:
    """Whether the program works on something of the question: one that prints a constant is no second opinion."""
    try:
        nodes = list(ast.walk(ast.parse(program)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    given = {number.replace(",", "").lstrip("0") for number in re.findall(r"\d[\d,]*", digits(question))}
    held = {number.lstrip("0") for number in re.findall(r"\d+", program)}
    called = [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") != "print"]
    return bool(called or any(isinstance(node, ast.BinOp) for node in nodes)) and bool(given & held)
