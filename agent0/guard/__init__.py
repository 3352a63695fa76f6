"""The guard: what may come before the council, and what of its work may enter the pool.

Users write the questions, so a question may be poison, or hold what is nobody's business. A proof outranks influence:
what is proven is not limited by who asked, but its text is still examined.
"""

import re
from collections.abc import Callable, Sequence

from agent0.guard import influence
from agent0.guard.injection import suspicious
from agent0.guard.privacy import holds_secret, scrub
from agent0.guard.steering import Steering
from agent0.guard.triggers import dictated, off_topic, trigger
from agent0.records import Failure, Quarantined, TrainingExample, owner_of
from agent0.settings import get_settings
from faiss_memory import load_embedder

LONGEST = 2000  # characters of a question: training takes short ones
_LINK = re.compile(r"(?:https?://|www\.)[^\s)>\]]+", re.IGNORECASE)
WITHHELD = "<withheld>"
# What users confirmed, or gave examples for, is their word: it outranks no limit on their influence.
BY_USERS = ("knowledge:", "code:verified")
STEERED = "a sentence in the question steers"

Refusal = tuple[Failure, str]
Candidate = tuple[Failure, TrainingExample]


def admit(failures: Sequence[Failure]) -> tuple[list[Failure], list[Refusal]]:
    """Return the failures that may come before the council, without personal data, and the others with the reason."""
    in_burst = influence.bursts(failures, get_settings().feedback_burst)
    admitted, refused = [], []
    for failure in failures:
        reason = _refuses(failure) or ("burst" if failure.kind == "open" and failure.answer.id in in_burst else None)
        if reason:
            refused.append((failure, reason))
        else:
            admitted.append(_scrubbed(failure))
    return admitted, refused


def examine(
    candidates: Sequence[Candidate], embed: Callable | None = None, earlier: Sequence[TrainingExample] = ()
) -> dict[str, str]:
    """Return the ids of the examples that must not enter the pool, each with the reason.

    What the day's `earlier` harvests let in counts where influence is limited.
    `embed` turns texts into unit vectors (default: the memory's embedder, loaded only where something is unproven).
    Raises CouncilError if the embedder cannot be loaded.
    """
    refused = {example.id: reason for _, example in candidates if (reason := _refuses_example(example))}
    unproven = [(f, e) for f, e in candidates if e.id not in refused and not _is_proven(e)]
    refused |= {e.id: f"trigger {word!r}" for _, e in unproven if (word := trigger(e.instruction, e.output))}
    refused |= {e.id: "the question dictates the answer" for _, e in unproven if dictated(e.instruction, e.output)}
    unproven = [(f, e) for f, e in unproven if e.id not in refused]
    if not unproven:
        return refused
    embed = embed or load_embedder()
    steered = Steering(embed).find([example.instruction for _, example in unproven])
    refused |= {e.id: STEERED for (_, e), sentence in zip(unproven, steered, strict=True) if sentence}
    unproven = [(f, e) for f, e in unproven if e.id not in refused]
    return refused | (_beyond_influence(unproven, embed, earlier) if unproven else {})


def quarantined(failure: Failure, reason: str, **more) -> Quarantined:
    """Return the record of a refusal; `more` is output, member, verified_by and votes, where there was a rewrite."""
    answer = failure.answer
    if more.get("output"):
        more["output"] = _presentable(more["output"])
    return Quarantined(
        answer_id=answer.id,
        timestamp=answer.timestamp,
        user=answer.user and scrub(answer.user),
        cause=failure.cause,
        kind=failure.kind,
        reason=reason,
        question=_presentable(answer.query),
        **more,
    )


def _refuses(failure: Failure) -> str | None:
    """Return why a failure must not come before the council, or None."""
    answer = failure.answer
    correction = (answer.feedback or {}).get("correction")
    texts = {"question": answer.query, "response": answer.response, "correction": correction or ""}
    if len(answer.query) > LONGEST:
        return "question too long"
    for name, text in texts.items():
        if holds_secret(text):
            return f"secret in the {name}"
    for name in ("question", "correction"):
        if reason := suspicious(texts[name]):
            return f"{reason} in the {name}"
    return None


def _refuses_example(example: TrainingExample) -> str | None:
    """Return why an example must not enter the pool whoever asked, or None."""
    for name, text in (
        ("question", example.instruction),
        ("rewrite", example.output),
        ("reasoning", example.reasoning),
    ):
        if holds_secret(text):
            return f"secret in the {name}"
        if reason := suspicious(text):
            return f"{reason} in the {name}"
        if scrub(text) != text:
            return f"personal data in the {name}"
    strange = [link for link in _LINK.findall(example.output) if link not in example.instruction]
    return "a link that the question does not hold in the rewrite" if strange else None


def _is_proven(example: TrainingExample) -> bool:
    return bool(example.verified_by) and not example.verified_by.startswith(BY_USERS)


def _beyond_influence(
    unproven: Sequence[Candidate], embed: Callable, earlier: Sequence[TrainingExample]
) -> dict[str, str]:
    settings, before = get_settings(), [example for example in earlier if not _is_proven(example)]
    examples = [*before, *(example for _, example in unproven)]
    users = [*(e.owner for e in before), *(owner_of(f.answer.user) for f, _ in unproven)]
    questions, outputs = embed([e.instruction for e in examples]), embed([e.output for e in examples])
    likeness = (questions * outputs).sum(axis=1)
    strange = {n for n, e in enumerate(examples) if off_topic(e.instruction, e.output, likeness[n])}
    found = {
        "cap of the user": influence.beyond_user_cap(users, settings.user_cap),
        "cap of the question": influence.beyond_cluster_cap(questions, settings.question_cap),
        "one answer to many questions": influence.coordinated(questions, outputs),
        "answers something else": strange,
    }
    refused = {examples[n].id: reason for reason, places in found.items() for n in places}
    return {example.id: refused[example.id] for _, example in unproven if example.id in refused}


def _scrubbed(failure: Failure) -> Failure:
    answer = failure.answer
    feedback = answer.feedback and {
        name: scrub(value) if isinstance(value, str) else value for name, value in answer.feedback.items()
    }
    clean = {"query": scrub(answer.query), "response": scrub(answer.response), "feedback": feedback}
    return failure.model_copy(update={"answer": answer.model_copy(update=clean)})


def _presentable(text: str) -> str:
    return WITHHELD if holds_secret(text) else scrub(text)
