"""The member that runs code: what a program prints, and whether a proposed function passes the question's examples."""

import ast
import re
import secrets

from agent0.command import log
from agent0.council.sandbox import isolates, run_python
from agent0.records import Rewrite

_FENCE = re.compile(r"```(?:python3?|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_SUBJECT = r"(?:this|the|the following)(?: (?:short|small|little))?(?: python3?)?(?: (?:code|program|script|snippet))?"
_COPY = r"(?: (?:below|above))?(?: (?:print|output)(?: out)?)"
_PRINTS = re.compile(
    rf"(?:what (?:does|will|would) {_SUBJECT}{_COPY}"
    rf"|what(?: is|'s) the output of {_SUBJECT}(?: below)?|what(?: is|'s) printed by {_SUBJECT}(?: below)?)[?:.]*",
    re.IGNORECASE,
)
_RETURNS = re.compile(r"what (?:does|will|would) (?P<call>[a-z_]\w*\(.*\)) (?:return|give|evaluate to)[?:.]*", re.I)
_EXAMPLE = re.compile(
    r"(?P<call>\b[a-z_]\w*\((?:[^()\n`]|\([^()\n`]*\))*\))`?\s*(?:==?|->|→|=>|returns?|gives?|is)\s*`?", re.IGNORECASE
)
_FEW = 3  # examples that prove a function: of two, other functions than the one that is meant pass, too
# What gives the same result everywhere and every day; a program that wants more is not run for an answer.
_PURE = frozenset(
    re.findall(
        r"\w+",
        """math cmath collections itertools functools string re json statistics fractions decimal operator heapq bisect
        copy dataclasses typing enum abc textwrap contextlib types array numbers""",
    )
)
_IMPURE = frozenset(
    re.findall(
        r"\w+",
        """input id hash open exec eval compile globals locals vars getattr breakpoint attrgetter methodcaller
        os sys io builtins codecs modules""",
    )
)
_DUNDERS = {"__init__", "__name__"}  # the others lead to the interpreter, and to what checks a candidate
_RUNS, _RUNS_WITH_SETS = 2, 8  # the order of a set differs from run to run; a program that prints it is found out
_LONGEST = 8000  # characters of a program, or of a result that may be an answer
_SHORT = 1000


class CodeMember:
    """Answers what a program prints, proven by running it, and verifies functions against the question's examples."""

    name = "code"

    def propose(self, question: str, failed_response: str) -> Rewrite | None:
        """Return what the question's program prints or its call returns; None for any other question."""
        program, call = _asked(question)
        if program is None or not isolates():
            return None
        printed = settled_output(program, call)
        if not printed:
            return None
        verb = "prints" if call is None else "returns"
        told = f"\n```\n{printed}\n```" if "\n" in printed else f" {printed}"
        return Rewrite(
            member=self.name,
            reasoning=f"The program was run, and this is what it {verb}.",
            output=f"{call or 'The program'} {verb}:{told}",
            result=printed,
            kind="code",
            proof="code:run",
        )

    def verify(self, question: str, text: str) -> str | bool | None:
        """Return the text's code, which is all of it that is proven, where it passes all examples of the question.

        False where it fails one; None where there are fewer than _FEW examples or all have one result, no such
        function, or only a table of the examples.
        """
        examples, source = read_examples(question), read_function(text)
        if (
            len(examples) < _FEW
            or len({result for _, result in examples}) < 2
            or not source
            or not _is_pure(ast.parse(source))
            or not isolates()
        ):
            return None
        if not _defined(source).issuperset(call.partition("(")[0] for call, _ in examples):
            return None
        if _is_table(source, examples):
            return None
        return passes(source, examples) and f"```python\n{source.strip()}\n```"


def settled_output(program: str, call: str | None = None) -> str | None:
    """Return what a program prints, or its call returns, where that is the same on every run; None where it fails."""
    mark = secrets.token_hex(8)
    tree = _parsed(program)
    if tree is None or not _is_pure(tree):
        return None
    sets = any(
        isinstance(node, ast.Set | ast.SetComp) or (isinstance(node, ast.Name) and node.id in ("set", "frozenset"))
        for node in ast.walk(tree)
    )
    printed = set()
    for _ in range(_RUNS_WITH_SETS if sets else _RUNS):
        run = run_python(program if call is None else f"{program}\nprint('\\n{mark}' + repr({call}))")
        printed.add((run.output if call is None else run.output.rpartition(f"\n{mark}")[2]).strip())
        if not run.ok or len(printed) > 1 or len(run.output) > _SHORT:
            return None
    return printed.pop() or None


def read_examples(question: str) -> list[tuple[str, str]]:
    """Return the (call, result) pairs of a question, each in Python: "f(2) == 4" is ("f(2)", "4")."""
    found = []
    text = re.sub(r"^>>> (.*\))\n(?=\S)", r"\1 == ", question, flags=re.MULTILINE)
    for match in _EXAMPLE.finditer(text):
        result = _literal(text[match.end() :].partition("\n")[0])
        if result is not None and _is_plain_call(match["call"]):
            found.append((match["call"], result))
    return found


def read_function(text: str) -> str | None:
    """Return the Python of a candidate: its fenced parts, else the whole of it; None where it defines no function."""
    source = "\n".join(_FENCE.findall(text)) or text
    return source if _defined(source) else None


def passes(source: str, examples: list[tuple[str, str]]) -> bool:
    """Whether the source's functions give each example's result, and the same type."""
    mark = secrets.token_hex(8)  # what else the source prints is told apart by it
    lines = [f"print('\\n{mark}', repr({call}))" for call, _ in examples]
    run = run_python("\n".join([source, *lines]))
    given = [line[len(mark) + 1 :] for line in run.output.splitlines() if line.startswith(mark)]
    return run.ok and given == [repr(ast.literal_eval(result)) for _, result in examples]


def _asked(question: str) -> tuple[str | None, str | None]:
    """Return (program, None) for "what does this print", (program, call) for "what does f(3) return"."""
    blocks = _FENCE.findall(question)
    words = " ".join(_FENCE.sub(" ", question).split())
    if len(blocks) != 1:
        return None, None
    if _PRINTS.fullmatch(words):
        return blocks[0], None
    asked = _RETURNS.fullmatch(words.replace("`", ""))
    return (blocks[0], asked["call"]) if asked and _is_plain_call(asked["call"]) else (None, None)


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source) if len(source) <= _LONGEST else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_pure(tree: ast.Module) -> bool:
    """Whether the program imports and names nothing that depends on the machine, the day or the interpreter."""
    for node in ast.walk(tree):
        modules, name = [], ""
        if isinstance(node, ast.Import):
            modules = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [(node.module or "?").partition(".")[0]]
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias):
            name = node.name
        if not _PURE.issuperset(modules) or name in _IMPURE or (name.startswith("__") and name not in _DUNDERS):
            return False
    return True


def _defined(source: str) -> set[str]:
    tree = _parsed(source)
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} if tree else set()


def _is_plain_call(text: str) -> bool:
    """Whether the text is a call of a name with literal arguments only."""
    tree = _parsed(text)
    if not tree or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        return False
    call = tree.body[0].value
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        return False
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    return all(_literal(ast.unparse(value)) is not None for value in values)


def _literal(text: str) -> str | None:
    """Return the longest Python literal that the text begins with, or None."""
    text = text.strip()
    ends = [len(text), *(m.start() for m in reversed(list(re.finditer(r"[`,;.]|\s", text))))]
    for end in ends[:40]:
        literal = text[:end].strip().rstrip(",.")
        try:
            ast.literal_eval(literal)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            continue
        return literal
    return None


def _is_table(source: str, examples: list[tuple[str, str]]) -> bool:
    """Whether the source holds the arguments and the results of all examples: then it may only repeat them."""
    held = {repr(node.value) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    wanted = set()
    for call, result in examples:
        tree = ast.parse(f"({call}, {result})")
        wanted |= {repr(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    if held >= wanted:
        log.info("council member code: a function that holds all examples is not taken as proven")
    return held >= wanted
