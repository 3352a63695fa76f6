"""Shopping: items at a price each, change, scaling, discounts, tax and tips."""

from fractions import Fraction

from agent0.council.math.rules import Answer, rule
from agent0.council.math.steps import add, divide, dollars, multiply, percent, subtract

_BUYS = r"(?:buys|bought|purchases|orders|gets)"
_EACH = rf"<name> {_BUYS} <n> <noun> (?:at|for) <money> each"
_PAYS = r"how much (?:does|did|will|must) <name> (?:have to )?(?:pay|spend)"
_TOTAL = r"what is the total(?: cost| price)?"
_FINAL = r"what is the (?:sale|new|final|discounted) price"
_COSTS = r"an? <noun> costs <money>"
_SHE = {"she", "he", "they"}


def _same(buyer: str, asked: str) -> bool:
    """Whether the question is about the one who bought."""
    return asked in _SHE or asked.split()[-1] == buyer.split()[-1]


def _same_goods(one: str, other: str) -> bool:
    return one == other or one + "s" == other or one == other + "s"


@rule(
    "price",
    rf"{_EACH}\. {_PAYS}",
)
def several(buyer: str, count: Fraction, _goods: str, each: Fraction, asked: str) -> Answer:
    return times_each(count, "", each) if _same(buyer, asked) else None


@rule(
    "price",
    rf"{_EACH}\. {_TOTAL}",
)
def several_total(_buyer: str, count: Fraction, goods: str, each: Fraction) -> Answer:
    return times_each(count, goods, each)


@rule(
    "price",
    r"how much (?:do|are|is|will) <n> <noun> (?:cost )?at <money> each(?: cost)?",
    r"what do <n> <noun> cost at <money> each",
)
def times_each(count: Fraction, _goods: str, each: Fraction) -> Answer:
    step, value = multiply(count, each)
    return f"{step}.", dollars(value), "Multiply the number of items by the price of one."


@rule(
    "price",
    rf"{_EACH} and an? <noun> (?:for|at) <money>\. {_PAYS}",
)
def several_and_one(
    buyer: str, count: Fraction, goods: str, each: Fraction, thing: str, other: Fraction, asked: str
) -> Answer:
    return several_and_one_total(buyer, count, goods, each, thing, other) if _same(buyer, asked) else None


@rule(
    "price",
    rf"{_EACH} and an? <noun> (?:for|at) <money>\. {_TOTAL}",
)
def several_and_one_total(
    _buyer: str, count: Fraction, _goods: str, each: Fraction, _thing: str, other: Fraction
) -> Answer:
    first, part = multiply(count, each)
    second, value = add(part, other)
    why = "First multiply the number of items by the price of one, then add the other item."
    return f"{first}. {second}.", dollars(value), why


_PAID = rf"{_EACH} and pays with an? <money>(?: bill| note)?"


@rule("price", rf"{_PAID}\. (?:how much change is there|what is the change)")
def change(_buyer: str, count: Fraction, _goods: str, each: Fraction, bill: Fraction) -> Answer:
    first, cost = multiply(count, each)
    second, value = subtract(bill, cost)
    why = "First work out what the items cost, then take that away from the money paid."
    return f"{first}. {second}.", dollars(value), why


@rule("price", rf"{_PAID}\. how much change does <name> (?:get|receive)(?: back)?")
def change_for(buyer: str, count: Fraction, goods: str, each: Fraction, bill: Fraction, asked: str) -> Answer:
    return change(buyer, count, goods, each, bill) if _same(buyer, asked) else None


@rule(
    "price",
    r"if <n> <noun> costs? <money>, "
    r"(?:how much (?:do|does|would|will)|what do|what would) <n> <noun> cost",
)
def scale(count: Fraction, goods: str, cost: Fraction, wanted: Fraction, same: str) -> Answer:
    if not _same_goods(goods, same):
        return None
    first, each = divide(cost, count)
    second, value = multiply(wanted, each)
    dollars(each)  # a price that is no whole number of cents has no everyday answer
    return (
        f"{first}. {second}.",
        dollars(value),
        "First find the price of one item, then multiply by the number wanted.",
    )


@rule(
    "price",
    rf"{_COSTS} and is <n>% off\. {_FINAL}",
    rf"{_COSTS} (?:and|but) (?:is|has been) (?:discounted|reduced) by <n>%\. {_FINAL}",
)
def discount(_thing: str, cost: Fraction, rate: Fraction) -> Answer:
    steps, part = percent(rate, cost)
    second, value = subtract(cost, part)
    return f"{steps}. {second}.", dollars(value), "First find the discount, then take it away from the price."


@rule(
    "price",
    rf"{_COSTS}(?: plus| and (?:there is|has)) (?:a )?<n>% (?:sales )?tax\. {_TOTAL}",
    rf"{_COSTS} and (?:the )?(?:sales )?tax is <n>%\. {_TOTAL}",
)
def tax(_thing: str, cost: Fraction, rate: Fraction) -> Answer:
    steps, part = percent(rate, cost)
    second, value = add(cost, part)
    return f"{steps}. {second}.", dollars(value), "First find the tax, then add it to the price."


@rule("price", r"(?:<ask> )?an? <n>% tip on (?:an? )?<money>(?: bill| meal| dinner| lunch)?")
def tip(rate: Fraction, bill: Fraction) -> Answer:
    steps, value = percent(rate, bill)
    return f"{steps}.", dollars(value), "The tip is that percentage of the bill; first find 10%."
