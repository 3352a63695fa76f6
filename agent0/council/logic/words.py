"""How the logic member reads English: sentences, singular forms, and the words over which it does not read."""

import re

# A clause that holds one of these says more than the forms do, so that nothing is read over it.
_LOADED = set(
    re.findall(
        r"\w+",
        """only unless except but or nor neither either most few many several almost nearly usually often sometimes
        always never maybe perhaps probably might may could would should must both than because when while until if
        then no some all every each any other another than and who which that whose was were will had did been""",
    )
)

_PLURALS = {"people", "men", "women", "children", "mice", "geese", "fish", "sheep"}

# they stand where a name would, and name nobody, or somebody who was named before
UNNAMED = frozenset(
    re.findall(
        r"\w+",
        """
    he she it they we you i this that these those one nobody none everyone everybody everything someone somebody
    anyone anybody neither either both each nothing who which
    """,
    )
)


def sentences(text: str) -> tuple[list[str], str] | None:
    """Return (statements, question); None unless the text is statements and then one question."""
    flat = re.sub(r"\s+", " ", text.replace("’", "'")).strip()
    parts = [part.strip() for part in re.split(r"(?<=[.?!])\s+", flat) if part.strip()]
    if len(parts) < 2 or len(parts) > 12 or not parts[-1].endswith("?"):
        return None
    if any(not part.endswith(".") for part in parts[:-1]) or len(flat) > 800:
        return None
    return [part[:-1].strip() for part in parts[:-1]], parts[-1][:-1].strip()


def plain(words: str) -> bool:
    """Whether the words are letters only, and none of them changes what a sentence says."""
    return bool(re.fullmatch(r"[a-z]+(?:[ -][a-z]+){0,4}", words)) and not _LOADED & set(re.split(r"[ -]", words))


def singular(word: str) -> str:
    """Return a word without the ending of plurals and of the third person: "flies" and "fly" are one."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(?:ss|x|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and re.search(r"[^su]s$", word) and not word.endswith("is") else word


def names_kind(words: str) -> bool:
    """Whether the words are a plural noun, so that "penguins are birds" speaks of all; "guests are here" does not."""
    last = words.split()[-1]
    return last in _PLURALS or (singular(last) != last and not last.endswith(("stairs", "doors", "seas", "ways")))


def term(words: str) -> str:
    """Return one spelling for a class, e.g. of "a rose" and "roses"."""
    return " ".join(singular(word) for word in re.sub(r"^(?:an?|the) ", "", words).split())
