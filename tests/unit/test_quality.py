"""The seed's heuristic, acceptance, duplicates, and the exact comparison of answers."""

from fractions import Fraction

import pint
import pytest

from agent0 import values
from agent0.quality import accepts, answers_agree, assess_quality, final_answer, normalise
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


@pytest.mark.parametrize(
    "response, expected",
    [
        ("The answer is 36.", "36"),
        ("15% of 240 = 240 * 15 / 100 = 3600 / 100 = 36. The answer is 36.", "36"),
        ("The answer is 36, which is more than 30.", "36"),
        ("The answer is 36. That is 30 and 6 more.", "36"),
        ("Answer:\n**36**", "36"),
        ("So \\boxed{36} it is, as 6 * 6 shows.", "36"),
        ("24 + 12 = 36 apples in 3 boxes", "36"),
        ("The answer is thirty-six.", "36"),
        ("It makes 1,200", "1200"),
        ("There are 12 days between June 9 and June 21.", "12"),
        ("It's 7.50 dollars", "$7.50"),
        ("You pay $36 for 3 shirts.", "$36"),
        ("The answer is 75 cents", "$0.75"),
        ("The answer is 3 km.", "3000 m"),
        ("The answer is 3000.", "3000 m"),
        ("48 m²", "48 square meters"),
        ("The answer is 48 sq m.", "48 square meters"),
        ("The answer is 60 km/h.", "60 kilometers per hour"),
        ("60 mph", "60 miles per hour"),
        ("The answer is 1 hour and 50 minutes.", "110 minutes"),
        ("The answer is 0.75", "3/4"),
        ("$\\frac{3}{4}$", "0.75"),
        ("The answer is 2 1/2.", "2.5"),
        ("The answer is 25%.", "25"),
        ("x = 5", "x = 5"),
        ("so x = 2 and y = 3", "x = 2, y = 3"),
        ("The answer is 3 and 2.", "2 and 3"),
        ("The answer is Thursday.", "Thursday"),
        ("Not Monday but thursday", "Thursday"),
        ("The answer is March 20th, 2026.", "March 20"),
        ("The 20th of March", "March 20, 2026"),
        ("2026-03-20", "March 20"),
        ("It ends at 2:35 p.m. sharp.", "14:35"),
        ("14:35", "2:35 PM"),
        ("The answer is Paris.", "Paris"),
        ("It is 36, not 40.", "36"),
        ("The answer is not 40 but 36.", "36"),
        ("It isn't 40, it is 36.", "36"),
        ("It is 36. It is not 40.", "36"),
        ("It is 0.75 or 3/4", "3/4"),
        ("It takes 36 minutes, if the train doesn't stop", "36 minutes"),
    ],
)
def test_answers_that_agree(response, expected):
    assert answers_agree(response, expected)


@pytest.mark.parametrize(
    "response, expected",
    [
        ("", "36"),
        ("I don't know.", "36"),
        ("The answer is 37.", "36"),
        ("The answer is -36.", "36"),
        ("The answer is 136.", "36"),
        ("The answer is 3.6.", "36"),
        ("The answer is 1,036.", "36"),
        ("The answer is not 36.", "36"),
        ("The answer is 36 or 40.", "36"),
        ("36 is wrong. The answer is 40.", "36"),
        ("The answer is 36% off", "$36"),
        ("The answer is 3000 km.", "3000 m"),
        ("The answer is 3000 kg.", "3000 m"),
        ("The answer is 48 meters.", "48 square meters"),
        ("The answer is 60 miles.", "60 miles per hour"),
        ("The answer is 2.", "2 and 3"),
        ("x = 3 and y = 2", "x = 2, y = 3"),
        ("The answer is Friday, a day after Thursday.", "Thursday"),
        ("The answer is March 21.", "March 20"),
        ("The answer is March 20, 2025.", "March 20, 2026"),
        ("2:35 AM", "14:35"),
        ("The answer is not Paris.", "Paris"),
        ("It is not 36.", "36"),
        ("It isn’t 36.", "36"),
        ("It is 40, not 36.", "36"),
        ("It could be 40 or 36.", "36"),
        ("Either 36 or 40.", "36"),
        ("Monday or Thursday", "Thursday"),
        ("It never is 2:35 PM", "14:35"),
        ("Paris or London", "Paris"),
        ("9" * 5000, "36"),
    ],
)
def test_answers_that_do_not_agree(response, expected):
    assert not answers_agree(response, expected)


def test_final_answer():
    assert final_answer("It was 12. The answer is 36 apples. Good.") == "36 apples"
    assert final_answer("ANSWER: 6 * 6 = 36") == "36"
    assert final_answer("there are 12, then 36") == "36"
    assert final_answer("no idea") == "no idea"


@pytest.mark.parametrize("name", [name for name, u in values._BASE_UNITS.items() if u[0] not in ("money", "percent")])
def test_units_are_exact(name):
    registry = pint.UnitRegistry(non_int_type=Fraction)
    base = {"length": "meter", "mass": "gram", "time": "second", "volume": "liter"}[values.UNITS[name].dimension]
    theirs = registry.Quantity(Fraction(1), name).to(base).magnitude
    assert values.UNITS[name].factor == theirs
