"""The pool: every night's examples, each question once however it is put, nothing that is held out."""

import pytest
from test_train import example

from agent0.command import CouncilError
from agent0.pool import load_pool
from agent0.quality import gist
from agent0.records import Question, read_jsonl, write_jsonl
from agent0.settings import ROOT


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 15% of 240?", "what's 15 percent of 240"),
        ("What is 15% of 240?", "Please calculate 15 % of 240."),
        ("What is 12 times 7?", "Compute 12 * 7"),
        ("What is 12 plus 7?", "How much is 12 + 7 ?"),
        ("What is the capital of Peru?", "Tell me the capital of Peru!"),
    ],
)
def test_a_question_in_other_words_has_the_same_gist(one, other):
    assert gist(one) == gist(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 15% of 240?", "What is 15% of 24?"),
        ("What is 12 - 7?", "What is 7 - 12?"),
        ("What is 12 - 7?", "What is 12 + 7?"),
        ("What is 240 increased by 15%?", "What is 240 decreased by 15%?"),
        ("What is the capital of Peru?", "What is the capital of Cuba?"),
        ("A film starts at 10:35.", "A film starts at 10:53."),
        ("What is 1.5 + 2?", "What is 15 + 2?"),
    ],
)
def test_another_question_has_another_gist(one, other):
    assert gist(one) != gist(other)


def test_the_pool_holds_every_night_and_the_newest_of_near_duplicates(home):
    folder = home / "training_data"
    write_jsonl(folder / "harvest_20260101.jsonl", [example(1), example(2), example(5, "What is 15% of 240?")])
    repeated = [example(4, example(1).instruction.upper()), example(6, "Find 15 percent of 240.", "15 * 2.4 = 36.")]
    write_jsonl(folder / "harvest_20260102.jsonl", [example(3), *repeated])
    assert {e.id for e in load_pool(folder)} == {"e2", "e3", "e4", "e6"}


def test_a_damaged_line_is_named_and_refused(home):
    path = home / "training_data" / "harvest_20260101.jsonl"
    write_jsonl(path, [example(1), example(2)])
    path.write_text(path.read_text() + '{"instruction": "half a li\n')
    with pytest.raises(CouncilError, match=r"harvest_20260101\.jsonl:3"):
        load_pool(path.parent)


@pytest.mark.parametrize("put", ["what is {}", "Please tell me: {}", "What's {}?"])
def test_a_held_out_question_is_never_trained_on_however_it_is_put(home, put):
    rows = read_jsonl(ROOT / "examples" / "heldout.jsonl", Question)
    question = next(row.question for row in rows if row.question.startswith("What is"))
    asked = put.format(question.removeprefix("What is ").rstrip("?"))
    write_jsonl(home / "training_data" / "harvest_20260101.jsonl", [example(1, asked)])
    with pytest.raises(CouncilError, match="held-out"):
        load_pool(home / "training_data")


def test_an_example_that_is_proven_wrong_leaves_the_pool(home):
    right, wrong = "40 + 2 = 42.", "40 + 2 = 43."
    rows = [example(1, "What is 40 + 2?", wrong), example(2, "What is 2 + 40?", right), example(3)]
    write_jsonl(home / "training_data" / "harvest_20260101.jsonl", rows)
    assert {e.id for e in load_pool(home / "training_data")} == {"e2", "e3"}
