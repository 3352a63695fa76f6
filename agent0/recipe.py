"""From the size of a pool to the recipe of a training, by what bench/RESULTS.md ("Recipes tried") found best."""

from dataclasses import dataclass, field, replace

from agent0.settings import Settings

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
SMALL_POOL = 5000  # examples; below it the seed's recipe makes under 500 steps of 5e-5
ENOUGH = 1000  # examples seen in a run, by passes over a small pool
PRACTISED = 1600  # examples of a run that practice fills up to: more is better, and takes longer
PRACTICE_RATIO = 8  # variations of one question at most
GENTLER = 0.5  # of the rate, where a training goes on from a trained release: "Rates from night to night" there


@dataclass(frozen=True)
class Recipe:
    """What a training run uses; `changes` says how it differs from the seed's recipe, and why."""

    batch_size: int
    gradient_accumulation: int
    learning_rate: float
    num_epochs: int
    lora_rank: int
    lora_alpha: int
    target_modules: tuple[str, ...] = ATTENTION
    changes: list[str] = field(default_factory=list)


def practice_wanted(repeated: int, pool: int, settings: Settings) -> int:
    """How many variations of a pool to train on beside what is repeated: new numbers teach more than a second pass."""
    if settings.train_recipe == "seed" or pool >= SMALL_POOL:
        return 0
    return min(max(0, PRACTISED - repeated), PRACTICE_RATIO * pool)


def choose_recipe(examples: int, settings: Settings, rows: int | None = None) -> Recipe:
    """Return the recipe for a pool of that many examples; `rows`: those of one pass, if not all practice was found.

    The seed's values (5e-5, 4 x 8, 3 epochs, attention) make 3 * examples / 32 steps: on a night's 300 examples, 28
    steps that leave the model where it was. A small pool gets a step for each batch, a higher rate, all linear layers
    (as in QLoRA, arXiv:2305.14314), and as many passes over it and its practice as make ENOUGH.
    """
    seed = {name: getattr(settings, name) for name in Recipe.__dataclass_fields__ if hasattr(settings, name)}
    if settings.train_recipe == "seed" or examples >= SMALL_POOL:
        return Recipe(**seed)
    rows = rows or examples + practice_wanted(examples, examples, settings)
    epochs = min(12, max(1, round(ENOUGH / rows)))
    wanted = {"gradient_accumulation": 1, "learning_rate": 5e-4, "num_epochs": epochs}
    adapted = {name: value for name, value in wanted.items() if name not in settings.model_fields_set}
    changes = [f"{name.upper()} {seed[name]:g} -> {value:g}" for name, value in adapted.items() if value != seed[name]]
    changes.append("target modules attention -> all linear layers")
    return Recipe(**{**seed, **adapted}, target_modules=ALL_LINEAR, changes=changes)


def gentler(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe for going on from a trained release, which the full rate would move about more than it teaches.

    A rate that is the user's or the seed's stays.
    """
    if recipe.learning_rate == settings.learning_rate:
        return recipe
    rate = GENTLER * recipe.learning_rate
    change = f"LEARNING_RATE {recipe.learning_rate:g} -> {rate:g}, since it goes on from a trained release"
    return replace(recipe, learning_rate=rate, changes=[*recipe.changes, change])
