"""Text that wants to steer the council or the trained model instead of asking: instructions, forged turns, hidden text.

A question is data. Members see it fenced, and what is found here does not come before them nor into the pool.
"""

import base64
import binascii
import re
import unicodedata

_INVISIBLE = {"Cf", "Co", "Cn", "Cs"}
_JOINERS = "\u200d\ufe0f"  # hold emoji together
_LEET = [str.maketrans("013457@$!|", f"o{one}eastasil") for one in "il"]
_BLOB = re.compile(r"\b(?:[A-Za-z0-9+/]{4}){6,}(?:[A-Za-z0-9+/]{2,4}={0,2})?|\b(?:[0-9a-f]{2}){16,}\b")
_SPELLED = re.compile(r"(?:\b[^\W\d_][ .*_-]){8,}[^\W\d_]\b")
_FRACTURED = re.compile(r"\w[-_.]\w+[-_.]\w+[-_.]\w+")

_QUIT = (
    r"(?:ignore|ignoring|disregard|forget|override|overrule|bypass|neglect|skip|drop|cancel|discard|abandon"
    r"|(?:do not|don't|never|stop|no longer) (?:follow|obey|heed|use|listen to)\w*)"
)
_RULES = (
    r"(?:instruction|guideline|directive|restriction|safety|safeguard|filter|system prompt|rules? (?:you|that)"
    r"|your rules|(?:everything|rules|text|context|prompt) (?:above|before|so far)"
    r"|(?:all|the|what is|what was) (?:above|previous|prior|earlier)"
    r"|your (?:orders?|training|programming|polic\w+)|previous (?:orders?|messages?|text|prompt)"
    r"|verification|checks?\b)"
)
_SAY = r"(?:say|answer|reply|respond|output|print|write|repeat|tell|state|claim|return)s?"
_FORMS = [
    # Quitting the rules, in a sentence.
    rf"\b{_QUIT}\b[^.?!]{{0,40}}{_RULES}",
    rf"{_RULES}[^.?!]{{0,25}}\b(?:are|is) (?:now )?(?:cancell?ed|void|off|disabled|over|lifted|no longer|suspended)",
    r"\bpretend\b[^.?!]{0,30}\b(?:you|no|without)\b|\bno (?:guidelines|restrictions|limits|filters)\b",
    r"\bchang\w+ your (?:instructions|rules|behaviou?r)",
    # A new role or a new order.
    r"\byou(?: a|')re (?:now|from now on|no longer)\b",
    rf"\bfrom (?:now|here|this point) on\b[^.?!]{{0,60}}\b(?:you|only|answer|always|obey|{_SAY})\b",
    r"\b(?:developer|god|admin|debug|jailbreak|dan|unrestricted) mode\b|\bjailbr\w+|\bwithout restrictions\b",
    r"\bstop (?:being|acting as)\b|\b(?:obey|follow|listen to) (?:only )?(?:me|mine|my)\b",
    r"\b(?:new|real|actual|only|true) (?:policy|instruction|order|rule|goal)s?\b[^.?!]{0,20}(?::|\bis\b)",
    r"\bsystem (?:update|override|message|notice|command)\b",
    # What to say, always or when something comes up.
    rf"\b(?:always|only|just|exactly|must)\b (?:{_SAY}|with)\b.{{0,60}}\b(?:every|always|each|any)\b",
    rf"\balways (?:answer|reply|respond|output|print)\b|\byou must (?:always )?(?:{_SAY})\b|\b(?:respond|reply) only\b",
    rf"\b(?:just|only|simply) (?:output|repeat|reply|respond)\b|\b(?:task|job) is to {_SAY}\b",
    rf"\b(?:when|whenever|if|every time|each time)\b[^?]{{0,70}}\b(?:you (?:should|must|will|have to)|then|,|always) ?"
    rf"(?:always |only )?(?!tell me|returns? (?:[\d'\"[({{]|none|true|false)){_SAY}\b",
    r"\brepeat (?:after me|this|the following)\b|\bexactly as (?:it stands|written|follows)\b|\band nothing else\b",
    r"\bmeans (?:that )?you (?:must|should)\b|\bto every (?:question|prompt|request)\b",
    rf"\b{_SAY}(?: with)?\b[^.?!]{{0,60}}\bto (?:every|all|any) (?:question|prompt|request)s?",
    # Words to the council, or in its own form.
    r"^[*# ]*(?:reasoning|vote|candidate \d+|assistant|system)\s*:\s*\S",
    r"\b(?:judge|grader|juror|evaluator|council)s?\b[^.?!]{0,60}\b(?:candidate|score|vote|accept|must|correct)",
    r"\bvote (?:for|against)\b[^.?!]{0,20}\b(?:it|this|me|candidate|answer)\b|\b(?:highest|full|top) (?:score|marks)\b",
    r"\baccept\b[^.?!]{0,40}\b(?:proven|correct|verified|true)\b|\bdo not (?:check|verify|question)\b",
    r"\bfor training purposes\b|\b(?:saved?|stored?|remembered|learned)\b[^.?!]{0,30}\bwith the answer\b",
    r"\b(?:remember|memori[sz]e)\b[^.?!]{0,40}\b(?:future|always|must|from now)\b",
    # Forged turns and templates.
    r"<\|?/?(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|s)\|?>|\[/?inst\]|<</?sys>>",
    r"^#{2,} ?(?:instruction|response|system|input|assistant|human)\b|<!--.*?-->",
    # Fishing.
    r"\b(?:reveal|print|show|repeat|leak|output|display)\b[^.?!]{0,30}"
    r"\b(?:system|hidden|initial|secret) (?:prompt|message|instruction)",
    r"\b(?:print|reveal|show|send|give)\b[^.?!]{0,30}\byour (?:api|access|secret) key",
    # Decoding on order.
    r"\b(?:decode|decrypt|rot-?13|base-?64|unscramble)\b[^.?!]{0,40}"
    r"\b(?:obey|follow|execute|do (?:it|that|what)|run)\b",
    # The first form in other tongues.
    r"\b(?:ignor\w*|vergiss|missachte)\b[^.?!]{0,30}\b(?:anweisung|regel|vorherig|bisherig|oben)\w*",
    r"\b(?:ignor\w*|olvid\w*|esque[çc]\w*|desconsider\w*)\b[^.?!]{0,30}\b(?:instruc|instruç|regla|regra|anterior)\w*",
    r"\b(?:ignor\w*|oubli\w*|néglig\w*)\b[^.?!]{0,30}\b(?:instruction|consigne|règle|précédent)\w*",
    r"\b(?:ignora|dimentica|scorda)\w*\b[^.?!]{0,30}\b(?:istruzion|regol|precedent)\w*",
    r"(?:忽略|无视|忘记|不要理会|無視).{0,12}(?:指令|指示|规则|說明|说明|提示)",
    r"(?:игнорир|забуд|не обращай)\w*.{0,40}(?:инструкц|указан|правил)\w*",
    r"(?:以前|前|上記).{0,6}(?:指示|命令|ルール).{0,8}(?:無視|忘れ)|(?:이전|위의).{0,8}(?:지시|명령).{0,8}(?:무시|잊)",
]
_ORDERS = re.compile("|".join(f"(?:{form})" for form in _FORMS), re.IGNORECASE | re.MULTILINE | re.DOTALL)


def suspicious(text: str) -> str | None:
    """Return what is wrong with a text ("hidden characters", "instructions", …), or None for one that is plain."""
    if any(unicodedata.category(c) in _INVISIBLE and c not in _JOINERS for c in text) or _joins_letters(text):
        return "hidden characters"
    if re.search(r"[\u0300-\u036f\u0483-\u0489]{3,}|[A-Za-z][\u0334-\u0338]", unicodedata.normalize("NFD", text)):
        return "stacked accents"
    if any(_mixed(word) for word in re.findall(r"[^\W\d_]+", text)):
        return "mixed scripts"
    if any(_decodes(blob[0]) for blob in _BLOB.finditer(text)):
        return "encoded text"
    if _SPELLED.search(re.sub(r"\s+", " ", text)):
        return "spelled-out text"
    return "instructions" if any(_ORDERS.search(form) for form in _readings(text)) else None


def _readings(text: str) -> set[str]:
    """The text as a reader may take it: plain, with digits for letters read back, and with chained words apart."""
    plain = unicodedata.normalize("NFKC", text).replace("’", "'")
    letters = [re.sub(r"\w*[a-z]\w*", lambda m, leet=leet: m[0].translate(leet), plain, flags=re.I) for leet in _LEET]
    joined = _FRACTURED.sub(lambda m: re.sub(r"[-_.]", " ", m[0]), plain)
    return {plain, *letters, joined}


def _joins_letters(text: str) -> bool:
    return re.search(rf"[A-Za-z][{_JOINERS}]|[{_JOINERS}][A-Za-z]", text) is not None


def _mixed(word: str) -> bool:
    """Whether one word has letters of Latin and of a script whose letters look like them."""
    scripts = {unicodedata.name(c, "?").partition(" ")[0] for c in word}
    return "LATIN" in scripts and bool(scripts & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"})


def _decodes(blob: str) -> bool:
    """Whether a long run of letters is readable text in base64 or hex."""
    for decode in (lambda b: base64.b64decode(b + "=" * (-len(b) % 4)), bytes.fromhex):
        try:
            text = decode(blob).decode("ascii")
        except (ValueError, binascii.Error):
            continue
        if text.isprintable() and " " in text:
            return True
    return False
