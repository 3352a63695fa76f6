"""The code member: what programs print, functions against examples, and programs beside an endpoint's answers."""

import pytest

from agent0.command import CouncilError
from agent0.council import code, endpoint
from agent0.council.code import CodeMember, read_examples, read_function, settled_output
from agent0.council.endpoint import endpoint_members
from agent0.council.program import checkable, program_agrees
from agent0.council.prompts import read_program, read_score
from agent0.council.protocol import convene
from agent0.council.sandbox import isolates
from agent0.council.user import UserMember
from agent0.settings import get_settings
from tests.unit.test_council import OPEN, member, server  # noqa: F401  a fixture

pytestmark = pytest.mark.skipif(not isolates(), reason="this machine does not let us isolate programs")

SQUARE = "Write a Python function square such that square(2) == 4, square(3) == 9 and square(-1) returns 1."
RIGHT = "Multiply it by itself.\n```python\ndef square(n):\n    return n * n\n```"


CODE = RIGHT.partition("\n")[2]  # what of it was run


def printed(program, words="What does this code print?"):
    rewrite = CodeMember().propose(f"{words}\n\n```python\n{program}\n```", "no idea")
    return rewrite and rewrite.result


def test_what_a_program_prints_is_proven():
    rewrite = CodeMember().propose("What does this print?\n```\nprint(6 * 7)\n```", "41")
    assert (rewrite.output, rewrite.result, rewrite.proof) == ("The program prints: 42", "42", "code:run")
    assert convene("What does this print?\n```\nprint([])\n```", "", [CodeMember()]).rewrite.result == "[]"
    assert printed("print(1)\nprint(2)") == "1\n2"


def test_what_a_call_returns_is_proven():
    rewrite = CodeMember().propose("What does `f(3)` return?\n```py\ndef f(n):\n    return 'x' * n\n```", "")
    assert (rewrite.output, rewrite.result) == ("f(3) returns: 'xxx'", "'xxx'")
    assert CodeMember().propose("What does f(open('x')) return?\n```\ndef f(n):\n    return n\n```", "") is None


@pytest.mark.parametrize(
    "program",
    [
        "import random\nprint(random.random())",
        "import random\nrandom.seed(1)\nprint(random.random())",
        "from datetime import date\nprint(date.today().year)",
        "import os\nprint(os.getcwd())",
        "print(input())",
        "print(id(1))",
        "print(object())",
        "class A: pass\nprint(A())",
        "print({'apple', 'pear'})",
        "print(open('/etc/passwd').read())",
        "print(__import__('time').time())",
        "print(print.__self__)",
        "print(1 / 0)",
        "print(1)\nraise SystemExit(3)",
        "x = 1",
        "print('a' * 5000)",
        "not python at all",
        "while True: pass",
    ],
)
def test_programs_that_do_not_settle_are_left_alone(program):
    assert printed(program) is None


@pytest.mark.parametrize(
    "words",
    [
        "What is wrong here?",
        "What does this JavaScript print?",
        "What does this print if x is 3?",
        "Explain this code.",
    ],
)
def test_other_questions_about_code_are_left_alone(words):
    assert printed("print(1)", words) is None
    assert CodeMember().propose("What does this print?", "") is None


def test_a_function_is_proven_by_its_examples_or_refuted():
    verify = CodeMember().verify
    assert verify(SQUARE, RIGHT) == CODE
    assert verify(SQUARE, RIGHT.replace("n * n", "2 * n")) is False
    assert verify(SQUARE, RIGHT.replace("n * n", "float(n * n)")) is False
    assert verify(SQUARE, RIGHT.replace("return", "while True: pass\n    return")) is False
    decision = convene(SQUARE, "?", [CodeMember(), UserMember(RIGHT)])
    assert (decision.verified_by, decision.rewrite.output) == ("code:verified", CODE)
    assert convene(SQUARE, "?", [CodeMember(), UserMember(RIGHT.replace("*", "+"))]).rewrite is None


@pytest.mark.parametrize(
    "text",
    [
        "I do not know.",
        "```python\ndef other(n):\n    return n * n\n```",
        "```python\ndef square(n):\n    return {2: 4, 3: 9, -1: 1}[n]\n```",  # a table of the examples
        "```python\nimport os\ndef square(n):\n    return n * n\n```",
        "```python\ndef square(n):\n    return n * n\nprint(open(__file__).read())\n```",
        "```python\nimport contextlib\ncontextlib.os._exit(0)\ndef square(n):\n    return n * n\n```",
    ],
)
def test_what_proves_nothing_is_not_proven(text):
    assert CodeMember().verify(SQUARE, text) is None


def test_what_a_program_prints_on_the_way_is_not_what_its_call_returns():
    asked = "What does f(3) return?\n```\ndef f(n):\n    print(n)\n    return n * 2\nprint(f(1))\n```"
    assert CodeMember().propose(asked, "").result == "6"


def test_two_examples_or_those_of_one_result_prove_nothing():
    double = "```python\ndef double(n):\n    return n * n\n```"
    assert CodeMember().verify("Write double: double(2) == 4 and double(0) == 0.", double) is None
    even = "```python\ndef is_even(n):\n    return True\n```"
    assert CodeMember().verify("is_even(2) is True, is_even(4) is True, is_even(10) is True", even) is None


def test_one_example_or_none_proves_nothing():
    assert CodeMember().verify("Write square such that square(2) == 4.", RIGHT) is None
    assert CodeMember().verify("Write a function that squares.", RIGHT) is None


def test_reading_examples():
    assert read_examples("f([1, 2]) -> 3\nf([]) -> 0. Write f.") == [("f([1, 2])", "3"), ("f([])", "0")]
    assert read_examples(">>> g('a b')\n'b a'\n>>> g('')\n''") == [("g('a b')", "'b a'"), ("g('')", "''")]
    assert read_examples("`h(1, k=2)` returns `(1, 2)`") == [("h(1, k=2)", "(1, 2)")]
    assert read_examples("Write add(a, b). add(1, 2) returns 3, add((1), 1) returns 2") == [
        ("add(1, 2)", "3"),
        ("add((1), 1)", "2"),
    ]
    assert read_examples("f(x) == 4, and f(2) is even") == []
    assert read_function("no code") is None


def test_without_isolation_nothing_is_run(monkeypatch):
    monkeypatch.setattr(code, "isolates", lambda: False)
    monkeypatch.setattr(code, "run_python", lambda *a: pytest.fail("it was run"))
    assert printed("print(1)") is None and CodeMember().verify(SQUARE, RIGHT) is None


def test_settled_output():
    assert settled_output("print(sorted({'b', 'a'}))") == "['a', 'b']"


# Programs beside an endpoint's answers.

TRAIN = "A train leaves at 60 km/h and stops 3 times for 5 minutes on its 90 km way. How many minutes does it need?"
ANSWER = (200, "REASONING: 90 minutes of driving and 15 of stops.\nANSWER: The answer is 105 minutes.", "stop")


def program(text, finish="stop"):
    return (200, f"```python\n{text}\n```", finish)


def test_an_answer_and_a_program_that_agree_are_a_proof(server):  # noqa: F811
    server.script = [ANSWER, program("print(90 / 60 * 60 + 3 * 5)")]
    decision = convene(TRAIN, "90", [member(server)])
    assert decision.verified_by == f"program by {member(server).name}" and decision.rewrite.result == "105.0"
    assert "Python" in server.requests[1][2]["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        program("print(90 + 60)"),
        program("print(105)"),
        program("print(100 + 5)", "length"),
        program("print(1 / 0)"),
        program("while 90:\n    f(60)"),
        (200, "105", "stop"),
        (401, "no more", ""),
        (200, "", "stop"),
    ],
)
def test_without_an_agreeing_program_it_is_a_proposal(server, reply):  # noqa: F811
    server.script = [ANSWER, reply]
    assert member(server).propose(TRAIN, "90").proof is None
    assert len(server.requests) == 2


def test_no_program_is_asked_for_where_nothing_can_be_computed(server, monkeypatch):  # noqa: F811
    server.script = [ANSWER, ANSWER]
    member(server).propose(OPEN, "Porto")
    monkeypatch.setattr(endpoint, "isolates", lambda: False)
    member(server).propose(TRAIN, "Porto")
    assert len(server.requests) == 2


def test_checkable():
    for question in (TRAIN, "What is 15% of 240?", "On which day is 3 days after Monday, when 7 days are a week?"):
        assert checkable(question)
    for question in (
        OPEN,
        "Why did 1789 matter?",
        "How many legs does a spider have?",
        "Tell me a joke about two men.",
    ):
        assert not checkable(question)


def test_a_program_must_compute():
    assert program_agrees("print(60 * 3)", "What is 60 times 3?", "180") == "180"
    assert program_agrees("print(180)", "What is 60 times 3?", "180") is None
    assert program_agrees("print(90 * 2)", "What is 60 times 3?", "180") is None
    assert program_agrees("import os\nprint(60 * 3, os.environ)", "What is 60 times 3?", "The answer is 7") is None


def test_reading_programs_and_scores():
    assert read_program("So:\n```python\nprint(1)\n```\nDone") == "print(1)\n"
    assert read_program("```\na\n```\n```\nb\n```") is None and read_program("print(1)") is None
    assert [read_score(text) for text in ("SCORE: 7", "Score: 7.5", "SCORE: 11", "7", "SCORE: 7/10")] == [
        0.7, 0.75, None, None, 0.7,
    ]  # fmt: skip


def write_toml(home, text):
    (home / "council.toml").write_text(text)


def test_endpoints_are_read_from_council_toml_beside_the_setting(home, monkeypatch):
    write_toml(home, '[[endpoint]]\nurl = "https://a/v1"\nmodel = "m"\nkey_variable = "A_KEY"\n'
                     '[[endpoint]]\nurl = "https://b"\nmodel = "m"\n')  # fmt: skip
    monkeypatch.setenv("A_KEY", "s3cret")
    monkeypatch.setenv("COUNCIL_ENDPOINTS", "https://c|m")
    get_settings.cache_clear()
    assert [m.name for m in endpoint_members()] == ["m@c", "m@a", "m@b"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("[[endpoint]", "council.toml"),
        ("other = 1", "[[endpoint]] tables and nothing else"),
        ("[endpoint]\nurl = 'https://a'", "[[endpoint]] tables and nothing else"),
        ("[[endpoint]]\nurl = 'https://a'", "not URL|model"),
        ("[[endpoint]]\nurl = 'https://a'\nmodel = 1", "model is not"),
        ("[[endpoint]]\nurl = 'https://a'\nmodel = 'm'\nkey = 'k'", "key is not"),
        ("[[endpoint]]\nurl = 'https://a'\nmodel = 'm'\nkey_variable = 'NO_SUCH'", "NO_SUCH is not set"),
    ],
)
def test_a_bad_council_toml_is_refused_by_name(home, text, words):
    write_toml(home, text)
    with pytest.raises(CouncilError) as caught:
        endpoint_members()
    assert words in str(caught.value) and caught.value.exit_code == 2
