"""The pool, the recipe, and the refusals that come before any compute."""

import json
from dataclasses import replace

import pytest
from lora_kit import make_base, make_release, stage
from safetensors.numpy import load_file

from agent0 import adapters, ledger, qlora, recipe, train, veto
from agent0.adapter_checks import WEIGHTS
from agent0.command import DONE, NOTHING_TO_DO, CouncilError
from agent0.records import TrainingExample, write_json, write_jsonl
from agent0.settings import get_settings, load_settings


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


def test_too_few_new_examples_are_nothing_to_do_and_leave_nothing_behind(home):
    fill(home, 4)
    assert train.main() == NOTHING_TO_DO
    assert not (home / "loras").exists()


@pytest.mark.parametrize(("minutes", "spare"), [("0.5", 60), ("240", 24 * 60)])
def test_a_stuck_training_is_killed_but_not_one_that_loads_and_saves(home, monkeypatch, minutes, spare):
    monkeypatch.setenv("TRAIN_MINUTES", minutes)
    get_settings.cache_clear()
    alarms = []
    monkeypatch.setattr("signal.alarm", alarms.append)
    assert train.main() == NOTHING_TO_DO
    limit = 60 * float(minutes)
    assert limit + spare <= alarms[0] <= 1.1 * limit + 300


def test_a_full_disk_is_refused_before_any_compute(home, monkeypatch):
    fill(home, 6)
    monkeypatch.setenv("MIN_FREE_DISK_GB", "1e9")
    get_settings.cache_clear()
    with pytest.raises(CouncilError, match="GB free"):
        train.main()
    assert not list((home / "loras").iterdir())


def untouched(home) -> bool:
    """Whether loras/ holds the base model's release and nothing else."""
    return [path.name for path in (home / "loras").glob("*")] + [r.name for r in adapters.releases()] == [
        "adapters",
        "base",
    ]


def test_a_failed_training_leaves_no_release_and_no_link(home, monkeypatch):
    fill(home, 6)

    def broken(pool, recipe, start, staging):
        (staging / "adapter_model.safetensors").write_bytes(b"half")
        raise CouncilError("out of memory")

    monkeypatch.setattr(train, "train", broken)
    with pytest.raises(CouncilError, match="out of memory"):
        train.main()
    assert untouched(home)


def test_a_big_pool_is_trained_by_the_seeds_recipe():
    chosen = recipe.choose_recipe(recipe.SMALL_POOL, load_settings())
    assert (chosen.learning_rate, chosen.batch_size, chosen.gradient_accumulation) == (5e-5, 4, 8)
    assert (chosen.num_epochs, chosen.lora_rank, chosen.lora_alpha) == (3, 16, 32)
    assert chosen.target_modules == recipe.ATTENTION
    assert not chosen.changes


def test_a_small_pool_adapts_and_says_what_it_changed():
    chosen = recipe.choose_recipe(300, load_settings())
    assert chosen.learning_rate > 5e-5
    assert chosen.target_modules == recipe.ALL_LINEAR
    assert any("LEARNING_RATE 5e-05 ->" in change for change in chosen.changes)


def test_the_seeds_recipe_can_be_had_for_a_small_pool(monkeypatch):
    monkeypatch.setenv("TRAIN_RECIPE", "seed")
    assert recipe.choose_recipe(300, load_settings()) == recipe.choose_recipe(recipe.SMALL_POOL, load_settings())
    assert recipe.practice_wanted(300, 300, load_settings()) == 0


@pytest.mark.parametrize(
    ("examples", "practice", "epochs"), [(24, 192, 5), (200, 1400, 1), (700, 900, 1), (2500, 0, 1)]
)
def test_practice_fills_a_run_up(examples, practice, epochs):
    settings = load_settings()
    assert recipe.practice_wanted(examples, examples, settings) == practice
    assert recipe.choose_recipe(examples, settings).num_epochs == epochs


def test_what_cannot_be_practised_is_passed_over_more_often():
    settings = load_settings()
    assert [recipe.choose_recipe(200, settings, rows).num_epochs for rows in (200, 1800)] == [5, 1]


SHAPE = recipe.Recipe(4, 1, 1e-3, 1, lora_rank=4, lora_alpha=8)  # as that of lora_kit's releases


@pytest.mark.parametrize("other", [{"lora_rank": 8}, {"lora_alpha": 4}, {"target_modules": recipe.ALL_LINEAR}])
def test_another_shape_of_the_adapter_takes_a_fresh_start(home, monkeypatch, other):
    make_base(home / "models" / "tiny", monkeypatch)
    adapters.point("current", adapters.publish(stage(), {}))
    assert train.starting_point(replace(SHAPE, **other)).is_base


def test_a_training_goes_on_from_what_serves_or_starts_anew_if_told_to(home, monkeypatch):
    assert train.starting_point(SHAPE).is_base
    make_base(home / "models" / "tiny", monkeypatch)
    release = adapters.publish(stage(), {})
    adapters.point("current", release)
    assert train.starting_point(SHAPE) == release
    monkeypatch.setenv("TRAIN_FROM", "base")
    get_settings.cache_clear()
    assert train.starting_point(SHAPE).is_base


@pytest.mark.parametrize(
    ("end", "improvement", "goes_on"),
    [("inconclusive", 0.05, True), ("inconclusive", 0, True), ("inconclusive", -0.01, True), ("refuse", 0.05, False)],
)
def test_a_training_goes_on_from_a_promising_candidate(home, monkeypatch, end, improvement, goes_on):
    make_base(home / "models" / "tiny", monkeypatch)
    fill(home, 6)
    serving = adapters.publish(stage(), {})
    candidate = adapters.publish(stage(), {"example_ids": ["e0"], "parent": serving.name})
    adapters.point("current", serving), adapters.point("latest", candidate)
    assert train.starting_point(SHAPE) == serving, "it was not judged yet"
    write_json(candidate.path / "gate_summary.json", {"end": end, "improvement": improvement})
    assert train.starting_point(SHAPE) == (candidate if goes_on else serving)
    if goes_on:  # its line is spoilt where what it goes on from was taken out
        adapters.point("current", adapters.ensure_base()), adapters.point(adapters.stamped("failed"), serving)
        assert train.starting_point(SHAPE).is_base
        (home / "loras" / next(iter(adapters.links("failed")))).unlink()
        adapters.point("current", serving)
    later = adapters.publish(stage(), {"example_ids": ["e1"]})
    assert train.starting_point(SHAPE) == (candidate if goes_on else serving), "the newest that is promising"
    adapters.point("latest", later)
    veto.veto("e0")
    assert train.starting_point(SHAPE) == serving
    veto.veto("e0", undo=True)
    monkeypatch.setenv("TRAIN_FROM", "base")
    get_settings.cache_clear()
    assert train.starting_point(SHAPE).is_base


def test_a_release_that_goes_on_from_another_has_learned_what_that_one_did(home, monkeypatch):
    make_base(home / "models" / "tiny", monkeypatch)
    fill(home, 6)
    start = adapters.publish(stage(), {"example_ids": ["e0", "e1", "old"]})
    pool = [example(0), example(1).model_copy(update={"verified_by": "user"}), example(2)]
    assert [e.id for e in train.to_repeat(pool, start)] == ["e1", "e2"]
    assert [e.id for e in train.to_repeat(pool, adapters.ensure_base())] == ["e0", "e1", "e2"]
    learned = [example(n).model_copy(update={"verified_by": "user"}) for n in range(12)]
    start = adapters.publish(stage(), {"example_ids": [e.id for e in learned[2:]]})
    repeated, practice = train.prepare(learned, start)
    ids = {e.id for e in repeated}
    assert len(ids) == 4 and {"e0", "e1"} < ids, "of what it has learned, no more than is new"
    assert not practice, "the examples are not proven by the math member"
    monkeypatch.setenv("TRAIN_RECIPE", "seed")
    get_settings.cache_clear()
    repeated, practice = train.prepare([example(n) for n in range(12)], start)
    assert len(repeated) == 4 and not practice, "without practice, what is proven is repeated, too"
    monkeypatch.delenv("TRAIN_RECIPE")
    get_settings.cache_clear()
    start = adapters.publish(stage(), {"example_ids": ["e0", "e1", "old"]})
    chosen = recipe.choose_recipe(3, load_settings())
    release = train.publish(pool, chosen, start, {"loss": 1.0, "seconds": 1.0}, stage())
    assert release.manifest["example_ids"] == ["e0", "e1", "e2", "old"]
    assert release.manifest["parent"] == start.name


def test_what_was_taken_back_is_unlearned_from_base(home, monkeypatch):
    make_base(home / "models" / "tiny", monkeypatch)
    fill(home, 6)
    release = adapters.publish(stage(), {"example_ids": ["e0", "e1"]})
    adapters.point("current", release)
    assert train.starting_point(SHAPE) == release
    veto.veto("e1")
    assert train.starting_point(SHAPE).is_base
    veto.veto("e1", undo=True)
    assert train.starting_point(SHAPE) == release
    fill(home, 1)  # the second is forgotten
    assert train.starting_point(SHAPE).is_base


@pytest.mark.parametrize(
    ("trained", "setting", "rate", "share"),
    [
        (False, {}, 5e-4, 0),
        (True, {}, 2.5e-4, 0.5),
        (True, {"LEARNING_RATE": "1e-3"}, 1e-3, 0.5),
        (True, {"TRAIN_RECIPE": "seed"}, 5e-5, 0),
    ],
)
def test_a_training_that_goes_on_from_a_release_goes_half_its_way(home, monkeypatch, trained, setting, rate, share):
    make_base(home / "models" / "tiny", monkeypatch)
    fill(home, 6)
    start, recipes = adapters.publish(stage(), {}) if trained else adapters.ensure_base(), []
    monkeypatch.setattr(train, "starting_point", lambda recipe: start)
    monkeypatch.setattr(train, "train", lambda lessons, recipe, *_: recipes.append(recipe) or {"loss": 1.0})
    monkeypatch.setenv("RANK", "1")  # one that publishes nothing
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    assert train.main() == DONE
    assert [(recipe.learning_rate, recipe.share_of_start) for recipe in recipes] == [(pytest.approx(rate), share)]


def test_a_release_shares_with_the_one_before_it_what_its_recipe_says(home, monkeypatch):
    monkeypatch.setenv("REPLAY_EXAMPLES", "0")
    make_base(home / "models" / "tiny", monkeypatch)
    start, staging = make_release(seed=1), stage(seed=2)
    before, reached = load_file(start.path / WEIGHTS), load_file(staging / WEIGHTS)
    trained = qlora.Trained(None, None, [{"loss": 1.0, "epoch": 1.0}])
    for name, result in (("load_tokenizer", None), ("train", trained), ("save", None)):
        monkeypatch.setattr(qlora, name, lambda *_, result=result: result)
    monkeypatch.setattr(train, "encode", lambda *_: {"labels": [1]})
    monkeypatch.setattr("agent0.fingerprint.record", lambda staging: None)
    going_on = recipe.Recipe(4, 1, 1e-3, 1, 4, 8, share_of_start=0.25)
    train.train(train.Lessons([example(1)], []), going_on, start, staging)
    for name, weight in load_file(staging / WEIGHTS).items():
        assert weight == pytest.approx(0.25 * before[name] + 0.75 * reached[name], abs=1e-6)


def test_a_value_that_the_user_sets_stays(monkeypatch):
    monkeypatch.setenv("LEARNING_RATE", "2e-4")
    monkeypatch.setenv("NUM_EPOCHS", "2")
    chosen = recipe.choose_recipe(300, load_settings())
    assert (chosen.learning_rate, chosen.num_epochs) == (2e-4, 2)
    assert not any("LEARNING_RATE" in change or "NUM_EPOCHS" in change for change in chosen.changes)


def test_training_examples_keep_the_seeds_fields():
    row = json.loads(example(1).model_dump_json())
    seed = {"instruction", "input", "output", "reasoning", "quality_score", "harvest_timestamp"}
    assert seed <= row.keys()


def test_of_several_processes_only_the_first_publishes(home, monkeypatch):
    fill(home, 6)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(train, "train", lambda lessons, recipe, start, staging: {"loss": 1.0, "seconds": 1.0})
    assert train.main() == DONE
    assert untouched(home)
    assert ledger.last("training") is None
