"""The pool, the recipe, and the refusals that come before any compute."""

import json

import pytest

from agent0 import ledger, train
from agent0.command import DONE, NOTHING_TO_DO, CouncilError
from agent0.records import Question, TrainingExample, read_jsonl, write_jsonl
from agent0.settings import ROOT, get_settings, load_settings


def example(number: int, question: str | None = None, output: str = "1 + 1 = 2. The answer is 2.") -> TrainingExample:
    return TrainingExample(
        instruction=question or f"What is {number} + 1 in the town of Ulm?",
        output=output,
        reasoning="Adding one.",
        quality_score=0.85,
        harvest_timestamp=1.0,
        id=f"e{number}",
        answer_id=f"a{number}",
        kind="arithmetic",
        verified_by="math:arithmetic",
    )


def fill(home, count: int) -> None:
    write_jsonl(home / "training_data" / "harvest_20260101.jsonl", [example(n) for n in range(count)])


def test_the_pool_holds_every_night_and_the_newest_rewrite_of_a_question(home):
    folder = home / "training_data"
    write_jsonl(folder / "harvest_20260101.jsonl", [example(1), example(2)])
    write_jsonl(folder / "harvest_20260102.jsonl", [example(3), example(4, example(1).instruction.upper())])
    assert {e.id for e in train.load_pool(folder)} == {"e2", "e3", "e4"}


def test_a_damaged_line_is_named_and_refused(home):
    fill(home, 2)
    path = home / "training_data" / "harvest_20260101.jsonl"
    path.write_text(path.read_text() + '{"instruction": "half a li\n')
    with pytest.raises(CouncilError, match=r"harvest_20260101\.jsonl:3"):
        train.load_pool(path.parent)


def test_a_held_out_question_is_never_trained_on(home):
    question = next(read_jsonl(ROOT / "examples" / "heldout.jsonl", Question)).question
    write_jsonl(home / "training_data" / "harvest_20260101.jsonl", [example(1, question.lower())])
    with pytest.raises(CouncilError, match="held-out"):
        train.load_pool(home / "training_data")


def test_too_few_new_examples_are_nothing_to_do_and_leave_nothing_behind(home):
    fill(home, 4)
    assert train.main() == NOTHING_TO_DO
    assert not (home / "loras").exists()


def test_a_full_disk_is_refused_before_any_compute(home, monkeypatch):
    fill(home, 6)
    monkeypatch.setenv("MIN_FREE_DISK_GB", "1e9")
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match="GB free"):
        train.main()
    assert not list((home / "loras").iterdir())


def test_a_failed_training_leaves_no_release_and_no_link(home, monkeypatch):
    fill(home, 6)

    def broken(pool, recipe, staging):
        (staging / "adapter_model.safetensors").write_bytes(b"half")
        raise CouncilError("out of memory")

    monkeypatch.setattr(train, "train", broken)
    with pytest.raises(CouncilError, match="out of memory"):
        train.main()
    assert not list((home / "loras").iterdir())


def test_a_big_pool_is_trained_by_the_seeds_recipe():
    recipe = train.choose_recipe(train.SMALL_POOL, load_settings())
    assert (recipe.learning_rate, recipe.batch_size, recipe.gradient_accumulation) == (5e-5, 4, 8)
    assert (recipe.num_epochs, recipe.lora_rank, recipe.lora_alpha) == (3, 16, 32)
    assert recipe.target_modules == train.ATTENTION
    assert not recipe.changes


def test_a_small_pool_adapts_and_says_what_it_changed():
    recipe = train.choose_recipe(300, load_settings())
    assert recipe.learning_rate > 5e-5
    assert recipe.target_modules == train.ALL_LINEAR
    assert any("LEARNING_RATE 5e-05 ->" in change for change in recipe.changes)


def test_a_value_that_the_user_sets_stays(monkeypatch):
    monkeypatch.setenv("LEARNING_RATE", "2e-4")
    monkeypatch.setenv("NUM_EPOCHS", "2")
    recipe = train.choose_recipe(300, load_settings())
    assert (recipe.learning_rate, recipe.num_epochs) == (2e-4, 2)
    assert not any("LEARNING_RATE" in change or "NUM_EPOCHS" in change for change in recipe.changes)


def test_training_examples_keep_the_seeds_fields():
    row = json.loads(example(1).model_dump_json())
    seed = {"instruction", "input", "output", "reasoning", "quality_score", "harvest_timestamp"}
    assert seed <= row.keys()


def test_of_several_processes_only_the_first_publishes(home, monkeypatch):
    fill(home, 6)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(train, "train", lambda pool, recipe, staging: {"loss": 1.0, "seconds": 1.0})
    assert train.main() == DONE
    assert not list((home / "loras").iterdir())
    assert ledger.last("training") is None
