"""Secrets and personal data in text: found by libraries, each find checked, so that ordinary numbers stay."""

import ipaddress
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise

# What the libraries have no rule for: a value that its own sentence names.
_NAMED_SECRET = re.compile(
    r"\b(?:pass(?:word|wd|phrase|code)|secret|pwd?|token|bearer|(?:api|access|secret|private)[ _-]?key)s?\b"
    r"[\w ]{0,12}?(?:\s+is\s+|\s*[:=]\s*|\s+)['\"]?(?P<value>[^\s'\"]{6,})",
    re.IGNORECASE,
)
_PIN = re.compile(r"\bpin(?: code| number)?\s*(?:is|:|=)\s*\d{4,8}\b", re.IGNORECASE)
_ASSIGNED_SECRET = re.compile(
    r"\b\w*(?:PASSWORD|PASSWD|PWD|SECRET|TOKEN|API_?KEY)\w*\s*[:=]\s*['\"]?(?P<value>[^\s'\",;]{4,})", re.IGNORECASE
)
_LONG = re.compile(r"[A-Za-z0-9+/_=.-]{20,}")
_NAME = re.compile(r"\b[Mm]y (?:full |real )?name is\s+(?P<value>[A-Z][\w'-]+(?:\s+[A-Z][\w'-]+)+)")
_NUMBERED = re.compile(
    r"\b(?:passport|driver'?s licen[cs]e|social security|ssn|national insurance|nhs|(?:bank )?account|patient"
    r"|medical record|health insurance|tax)(?:\s*(?:is|:|=|#)|\s+(?:number|no\.?|id)\b\s*(?:is|:|=|#)?|(?<=ssn))\s*"
    r"(?P<value>(?=(?:[A-Z -]*\d){5})[A-Z]{0,3}[ -]?\d[A-Z\d-]*(?: \d+)*)",
    re.IGNORECASE,
)
_BORN = re.compile(r"\b(?:date of birth|dob|d\.o\.b\.)\s*(?:is|:|=)?\s*", re.IGNORECASE)
_CALL = re.compile(r"\b(?:call|phone|mobile|cell|tel|telephone|text|whatsapp|sms|fax)\b", re.IGNORECASE)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,4})?\b")
_COLONS = re.compile(r"(?<![\w:])[0-9A-Fa-f]*:[0-9A-Fa-f:]*:[0-9A-Fa-f]*(?![\w:])")
_REGIONS = ("US", "GB")  # where a number without a country code may be from
_SHORTEST_PHONE = 7  # digits


def scrub(text: str) -> str:
    """Return text with each piece of personal data replaced by the name of its kind, such as <EMAIL>."""
    for start, end, kind in reversed(_disjoint(sorted(_personal(text)))):
        text = f"{text[:start]}<{kind}>{text[end:]}"
    return text


def holds_secret(text: str) -> bool:
    """Whether text holds a credential: a known kind of key, a value called a password, or a long random word."""
    if any(_looks_random(match["value"]) for match in _NAMED_SECRET.finditer(text)):
        return True
    if (
        _ASSIGNED_SECRET.search(text)
        or _PIN.search(text)
        or any(_looks_like_a_key(match[0]) for match in _LONG.finditer(text))
    ):
        return True
    return any(any(plugin.analyze_string(line)) for line in text.splitlines() for plugin in _plugins())


def _looks_random(word: str) -> bool:
    """Whether a word mixes letters with digits, inner capitals or signs."""
    return re.search(r"[A-Za-z]", word) is not None and re.search(r"\d|[a-z][A-Z]|[@#$%^&*_+=~|<>]", word) is not None


def _looks_like_a_key(word: str) -> bool:
    """Whether a long word mixes letters and digits as no name, path or version does."""
    return any(len(part) >= 20 and _changes(part) >= 5 for part in re.split(r"[./]", word))


def _changes(word: str) -> int:
    """How often a word goes from letters to digits or back, or from small to big letters."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" for c in word if c.isalnum()]
    return sum(a != b for a, b in pairwise(kinds))


@cache
def _plugins() -> list:
    """The detectors of detect-secrets that know a form; its entropy and keyword ones are for source files."""
    from detect_secrets.core.plugins.initialize import from_secret_type
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.settings import default_settings

    vague = ("Entropy", "Secret Keyword", "Public IP")
    with default_settings():
        names = [name for name in get_mapping_from_secret_type_to_class() if not any(word in name for word in vague)]
        return [plugin for name in names if (plugin := from_secret_type(name))]


@cache
def _annotator():
    from datafog.processing.text_processing.regex_annotator import RegexAnnotator

    return RegexAnnotator(enabled_labels=["EMAIL", "SSN", "CREDIT_CARD", "IP_ADDRESS", "DOB"])


Span = tuple[int, int, str]


def _personal(text: str) -> Iterator[Span]:
    """Yield (start, end, kind) of what may be personal data."""
    if "@" in text or any(character.isdigit() for character in text):
        yield from _formed(text)
        yield from _phones(text)
        yield from _accounts(text)
        yield from _addresses(text)
    yield from ((*match.span(), "IP_ADDRESS") for match in _COLONS.finditer(text) if _is_global(match[0]))
    yield from ((*match.span("value"), "NAME") for match in _NAME.finditer(text))
    yield from ((*match.span("value"), "ID_NUMBER") for match in _NUMBERED.finditer(text))


def _formed(text: str) -> Iterator[Span]:
    """What datafog finds by its form, where a check digit or the sentence agrees."""
    for span in _annotator().annotate_with_spans(text)[1].spans:
        if span.text and _agrees(span.label, span.text, text[: span.start]):
            yield span.start, span.end, span.label


def _agrees(kind: str, found: str, before: str) -> bool:
    from stdnum import luhn
    from stdnum.us import ssn

    if kind == "CREDIT_CARD":
        return luhn.is_valid(re.sub(r"\D", "", found))
    if kind == "SSN":
        return "-" in found and ssn.is_valid(found)
    if kind == "IP_ADDRESS":
        return _is_global(found)
    return kind == "EMAIL" or (kind == "DOB" and bool(re.search(_BORN.pattern + r"$", before, re.IGNORECASE)))


def _is_global(address: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_global
    return False


def _phones(text: str) -> Iterator[Span]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    called = _CALL.search(text) is not None
    for region in _REGIONS:
        for match in PhoneNumberMatcher(text, region, leniency=Leniency.POSSIBLE if called else Leniency.VALID):
            written = called or re.search(r"[+()]|\d[ -]\d|\.\d+\.", match.raw_string)
            if written and sum(map(str.isdigit, match.raw_string)) >= _SHORTEST_PHONE:
                yield match.start, match.end, "PHONE"


def _accounts(text: str) -> Iterator[Span]:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        words = match[0].split(" ")
        for count in range(len(words), 0, -1):  # the form may have swallowed words that follow
            found = " ".join(words[:count])
            if iban.is_valid(found):
                yield match.start(), match.start() + len(found), "IBAN"
                break


def _addresses(text: str) -> Iterator[Span]:
    import pyap

    for country in ("US", "GB"):
        for address in pyap.parse(text, country=country):
            found = text[address.match_start : address.match_end]
            if re.match(r"\W*\d+\w?,? [A-Z]", found):
                yield address.match_start, address.match_end, "ADDRESS"


def _disjoint(spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in spans:
        if kept and span[0] < kept[-1][1]:
            kept[-1] = (kept[-1][0], max(span[1], kept[-1][1]), kept[-1][2])
        else:
            kept.append(span)
    return kept
