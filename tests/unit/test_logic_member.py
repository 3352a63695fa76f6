"""The logic member: conclusions that a solver draws, with their reason, and silence about everything else."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from agent0.council.logic import LogicMember, solve
from agent0.council.logic.words import singular

OPEN = "cannot be determined"


@pytest.mark.parametrize(
    "question, form, answer",
    [
        ("All cats are animals. Tom is a cat. Is Tom an animal?", "syllogism", "yes"),
        ("All cats are animals. Tom is an animal. Is Tom a cat?", "syllogism", OPEN),
        ("No cats are dogs. Tom is a cat. Is Tom a dog?", "syllogism", "no"),
        ("All flies are insects. Do any flies sing? ", None, None),
        ("All birds sing. Robins are birds. Do robins sing?", "syllogism", "yes"),
        ("No birds bark. Robins are birds. Do robins bark?", "syllogism", "no"),
        ("Some cats are black. Some cats are white. Are some cats not black?", None, None),
        ("Guests are here. Anna is a guest. Is Anna here?", None, None),
        ("Guests are upstairs. All students are guests. Are all students upstairs?", None, None),
        ("Birds can fly. Penguins are birds. Can penguins fly?", None, None),
        ("Penguins are birds. All birds are animals. Are penguins animals?", "syllogism", "yes"),
        ("A student is sick. Anna is a student. Is Anna sick?", None, None),
        ("Nobody is a fool. All fools are happy. Is nobody happy?", None, None),
        ("A and B is true. A is true. Is B true?", "proposition", "yes"),
        ("If A and B is true, then C is true. A is true. Is C true?", None, None),
        ("Ann is taller than Bob. She is taller than Cid. Who is the tallest?", None, None),
        ("Nobody is taller than Ann. Ann is taller than Bob. Who is the tallest?", None, None),
        ("Ann swims faster than Bob. Bob runs faster than Cid. Is Ann faster than Cid?", None, None),
        ("If it rains, the road is wet. It rains. Is the road wet?", "proposition", "yes"),
        ("If it rains, the road is wet. The road is not wet. Does it rain?", "proposition", "no"),
        ("If it rains, the road is wet. The road isn't wet. Does it rain?", "proposition", "no"),
        ("If it rains, the road is wet. It does not rain. Is the road wet?", "proposition", OPEN),
        ("If P then Q. P and R are true. Is Q true?", "proposition", "yes"),
        ("Ann is taller than Bob, Bob is taller than Cid. Who is the shortest?", "order", "Cid"),
        ("Ann is taller than Bob. Is Bob taller than Ann?", "order", "no"),
        ("The cat is heavier than the hen. The dog is heavier than the cat. Who is the heaviest?", "order", "the dog"),
        ("Ann is older than Bob. Cid is older than Bob. Who is the oldest?", "order", OPEN),
        ("Ann and Bob each have a different pet: a cat and a dog. Ann has the dog. Who has the cat?", "puzzle", "Bob"),
        ("Ann, Bob and Cid each have a different pet: a cat, a dog and a fish. Ann has the dog. Who has the cat?",
         "puzzle", OPEN),
    ],
)  # fmt: skip
def test_conclusions(question, form, answer):
    solved = solve(question)
    assert (solved[0], solved[1].answer) == (form, answer) if form else solved is None


@pytest.mark.parametrize(
    "question",
    [
        "Is Tom an animal?",  # no premise
        "Tom is a cat. Is Tom an animal?",  # "animal" stands nowhere else
        "All wolves are animals. Rex is a wolf. Is Rex an animal?",  # two spellings that are not known to be one
        "Most cats are black. Tom is a cat. Is Tom black?",
        "Only cats are animals. Tom is a cat. Is Tom an animal?",
        "All cats except Tom are animals. Tom is a cat. Is Tom an animal?",
        "All cats are not dogs. Tom is a cat. Is Tom a dog?",  # not all, or none?
        "All cats are animals. No cats are animals. Tom is a cat. Is Tom an animal?",  # contradictory
        "Every oak is a tree. Is every tree an oak?",  # it does not follow, but everybody knows
        "All cats are animals. Some animals are dogs. Are some cats dogs?",
        "All cats are animals or plants. Tom is a cat. Is Tom an animal?",
        "All cats are animals! Tom is a cat. Is Tom an animal?",
        "All cats are animals. Tom is a cat. Is Tom an animal? Why?",
        "All cats are animals. Tom was a cat. Is Tom an animal?",
        "If it rains, the road is wet. It rained. Is the road wet?",
        "The road is wet only if it rains. The road is wet. Does it rain?",
        "Unless it rains, the road is dry. It rains. Is the road dry?",
        "If Ann is late, she misses the bus. Ann is late. Does Ann miss the bus?",
        "Ann is much taller than Bob. Who is the tallest?",
        "Ann is taller than Bob. Bob is older than Cid. Who is the tallest?",  # two scales
        "Ann is shorter than Bob. Who is the tall one?",
        "Ann is taller than Bob. Bob is taller than Ann. Who is the tallest?",
        "Ann is taller than Bob. Who is the tallest girl?",
        "Ann and Bob each have a pet: a cat and a dog. Ann has the dog. Who has the cat?",  # not said to differ
        "Ann and Bob each have a different pet: a cat and a dog. Ann had the dog. Who has the cat?",
        "What is 15% of 240?",
        "Why is the sky blue?",
        "",
        "All " + "very " * 500 + "cats are animals. Tom is a cat. Is Tom an animal?",
    ],
)
def test_silence(question):
    assert solve(question) is None


def test_the_reason_names_the_premises_that_are_needed_and_no_other():
    rewrite = LogicMember().propose("All cats are pets. All dogs are pets. Tom is a cat. Is Tom a pet?", "no")
    assert rewrite.output == "All cats are pets. Tom is a cat. The answer is yes."
    assert (rewrite.result, rewrite.kind, rewrite.proof) == ("yes", "logic", "logic:syllogism")
    assert rewrite.reasoning == "It follows from 2 of the premises."


def test_threads_may_share_the_solver():
    question = "Ann is taller than Bob. Bob is taller than Cid. Who is the tallest?"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: solve(question)[1].answer, range(40)))
    assert answers == ["Ann"] * 40


def test_singular():
    assert [singular(w) for w in ("flies", "roses", "boxes", "classes", "glass", "bus", "this", "gets", "dog")] == [
        "fly", "rose", "box", "class", "glass", "bus", "this", "get", "dog",
    ]  # fmt: skip
