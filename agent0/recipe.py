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
HALFWAY = 0.5  # of that release in what is published then: "Half of the way" there


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
    share_of_start: float = 0.0  # in the weights that are published; the rest is what the training reached
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


def going_on(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe for going on from a trained release, which the full rate would move about more than it teaches.

    A rate that is the user's stays, and the seed's recipe as it is.
    """
    if settings.train_recipe == "seed":
        return recipe
    rate, changes = recipe.learning_rate, []
    if rate != settings.learning_rate:
        rate *= GENTLER
        changes = [f"LEARNING_RATE {recipe.learning_rate:g} -> {rate:g}, since it goes on from a trained release"]
    changes.append(f"what is published is {HALFWAY:.0%} that release, which the training scatters about")
    return replace(recipe, learning_rate=rate, share_of_start=HALFWAY, changes=[*recipe.changes, *changes])
