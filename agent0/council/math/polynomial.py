"""Expressions in small letters and numbers, read into SymPy polynomials.

The reader is our own because SymPy's evaluates its text as Python, and this text comes from users.
"""

import re
from fractions import Fraction

from sympy import Expr, Poly, Rational, Symbol, expand

from agent0.council.math.rules import Unclear

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|([a-z])|([-+*/^()]))")
_DEPTH = 8
_LARGEST = 10**40


def parse(text: str) -> Expr:
    """Read an expression, expanded. Raises Unclear for anything unusual: 1/2x, x/y, powers over 4, deep brackets."""
    reader = _Reader(_tokens(text))
    value = reader.sum(0)
    if reader.peek() is not None:
        raise Unclear(text)
    return value


def letters(*values: Expr) -> set[str]:
    return {symbol.name for value in values for symbol in value.free_symbols}


def coefficient(value: Expr, letter: str, power: int = 1) -> Fraction:
    """The exact factor of letter**power; power 0 is the constant."""
    factor = value.coeff(Symbol(letter), power)
    return fraction(factor if power else factor.subs(dict.fromkeys(factor.free_symbols, 0)))


def fraction(value: Expr) -> Fraction:
    """A SymPy number as a Fraction. Raises Unclear where letters are left in it."""
    if not value.is_Rational:
        raise Unclear(str(value))
    return Fraction(int(value.p), int(value.q))


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.strip()
    if re.search(r"[a-z]\s*[a-z]", text):
        raise Unclear(text)  # a word rather than a product
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise Unclear(text)
        if len(match[0]) > 24:
            raise Unclear(match[0])
        tokens.append(match[0].strip())
        at = match.end()
    return tokens


class _Reader:
    """Recursive descent: sum → product → power → atom."""

    def __init__(self, tokens: list[str]):
        self.tokens, self.at = tokens, 0

    def peek(self) -> str | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise Unclear("the expression stops short")
        self.at += 1
        return token

    def sum(self, depth: int) -> Expr:
        sign = -1 if self.peek() == "-" else 1
        if self.peek() == "-":
            self.take()
        value = sign * self.product(depth)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value += sign * self.product(depth)
        return value

    def product(self, depth: int) -> Expr:
        value, divided = self.power(depth), False
        while (token := self.peek()) is not None and token not in ("+", "-", ")"):
            if token in "*/":
                self.take()
                factor = self.power(depth)
                value, divided = (_bounded(value * factor), divided) if token == "*" else (_over(value, factor), True)
            elif divided or token[0].isdigit() or token == "^":
                raise Unclear("a product without a sign, after a division or before a number")
            else:
                value = _bounded(value * self.power(depth))
        return value

    def power(self, depth: int) -> Expr:
        value = self.atom(depth)
        if self.peek() == "^":
            self.take()
            exponent = self.take()
            if exponent not in ("1", "2", "3", "4") or self.peek() == "^":
                raise Unclear(f"power {exponent}")
            value = _bounded(value ** int(exponent))
        return value

    def atom(self, depth: int) -> Expr:
        token = self.take()
        if token == "(" and depth < _DEPTH:
            value = self.sum(depth + 1)
            if self.take() != ")":
                raise Unclear("an open bracket")
            return value
        if token[0].isdigit():
            return Rational(token)
        if token.isalpha():
            return Symbol(token)
        raise Unclear(token)


def _bounded(value: Expr) -> Expr:
    """Expand a product. Raises Unclear where it grows beyond everyday size."""
    value = expand(value)
    if value.free_symbols and Poly(value).total_degree() > _DEPTH:
        raise Unclear("a high power")
    if any(abs(number.p) > _LARGEST or number.q > _LARGEST for number in value.atoms(Rational)):
        raise Unclear("a number out of all size")
    return value


def _over(a: Expr, b: Expr) -> Expr:
    if b.free_symbols or b == 0:
        raise Unclear("a division by something else than a number")
    return expand(a / b)
