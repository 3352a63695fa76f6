"""The seed's heuristic, acceptance, duplicates, and exact units."""

from fractions import Fraction

import pint
import pytest

from agent0 import values
from agent0.quality import accepts, assess_quality, normalise
from agent0.settings import get_settings

SEED = """
def _assess_quality(query, bad_response, good_response):
    score = 0.5  # baseline
    if len(good_response) > len(bad_response) * 1.5:
        score += 0.2
    reasoning_words = ["because", "therefore", "step", "first"]
    if any(word in good_response.lower() for word in reasoning_words):
        score += 0.15
    if "```" in good_response and "```" not in bad_response:
        score += 0.1
    return min(score, 1.0)
"""


@pytest.mark.parametrize(
    "bad, good",
    [
        ("", ""),
        ("no", "no"),
        ("bad", "bad."),
        ("ab", "abc"),
        ("ab", "abcd"),
        ("I don't know", "Because I looked"),
        ("x" * 99, "FIRST"),
        ("`", "```python```"),
        ("```", "``` and ``` step"),
        ("no", "Therefore, step by step: ```code``` " * 9),
    ],
)
def test_the_heuristic_is_the_seeds(bad, good):
    seed: dict = {}
    exec(SEED, seed)
    assert assess_quality("q", bad, good) == seed["_assess_quality"]("q", bad, good)


def test_an_unproven_rewrite_needs_the_threshold_and_a_proof_does_not(monkeypatch):
    assert accepts(0.7, None) and not accepts(0.69, None)
    assert accepts(0.0, "math:percentage")
    monkeypatch.setenv("QUALITY_THRESHOLD", "0.9")
    get_settings.cache_clear()
    assert not accepts(0.7, None)


def test_normalise_folds_spelling_and_nothing_else():
    assert normalise("  What  is 2 + 2 ?\n") == normalise("what is 2 + 2") == normalise("WHAT IS 2 + 2?!")
    assert normalise("What is 2 + 2?") != normalise("What is 2 + 3?")
    assert normalise("x² = 4") != normalise("x2 = 4")


@pytest.mark.parametrize("name", [name for name, u in values._BASE_UNITS.items() if u[0] not in ("money", "percent")])
def test_units_are_exact(name):
    registry = pint.UnitRegistry(non_int_type=Fraction)
    base = {"length": "meter", "mass": "gram", "time": "second", "volume": "liter"}[values.UNITS[name].dimension]
    theirs = registry.Quantity(Fraction(1), name).to(base).magnitude
    assert values.UNITS[name].factor == theirs
