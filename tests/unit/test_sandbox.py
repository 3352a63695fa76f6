"""The sandbox: programs run and answer, and forty-odd ways out of it are closed, each test says how."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent0.command import CouncilError
from agent0.council import sandbox
from agent0.council.sandbox import JAIL, OUTPUT, isolates, run_python
from agent0.settings import ROOT
from tests.unit.escapes import ESCAPES, C

pytestmark = pytest.mark.skipif(not isolates(), reason="this machine does not let us isolate programs")

SECRET = "s3cr3t-of-the-council"


def left_over(name: str = "") -> set[str]:
    """Programs in a sandbox that are still running anywhere on this machine, by process id; with a name, only its."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            named = not name or (entry / "comm").read_text() == name + "\n"
        except OSError:
            continue
        if words[1:] == ["-I", "-S", "-X", "utf8", "/tmp/program.py", ""] and named:
            found.add(entry.name)
    return found


def survivors(programs: set[str]) -> set[str]:
    """Those of the programs that do not end; other tests, in another process, may start some of their own meanwhile."""
    deadline = time.monotonic() + 10
    while programs and time.monotonic() < deadline:  # the kernel takes its time over what it has killed
        time.sleep(0.02)
        programs = programs & left_over()
    return programs


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path):
    yield
    assert not survivors(left_over())
    assert not list(tmp_path.glob("escaped*")) and not Path("/tmp/escaped").exists()


def test_a_program_answers():
    run = run_python("import math, json\nprint(math.comb(7, 3), 'é', json.dumps([1]))")
    assert (run.output, run.ok, run.reason) == ("35 é [1]\n", True, "")


def test_a_failing_program_says_why():
    run = run_python("print(1)\nprint(1 / 0)")
    assert (run.output, run.ok, run.reason) == ("1\n", False, "ZeroDivisionError: division by zero")
    assert run_python("def").reason == "SyntaxError: invalid syntax"
    assert run_python("raise SystemExit(125)").ok is False


def test_its_own_folder_is_writable():
    assert run_python("open('a', 'w').write('b')\nprint(open('/tmp/a').read())").output == "b\n"


@pytest.mark.parametrize("name, program, output, reason", ESCAPES, ids=[escape.name for escape in ESCAPES])
def test_no_way_out(name, program, output, reason):
    start = time.monotonic()
    run = run_python(program, 1 if reason is not None else 3)
    assert time.monotonic() - start < 5
    assert output is None or run.output == output, run
    assert run.ok == (reason is None), run
    assert reason is None or reason in run.reason, run
    assert len(run.output) <= OUTPUT


@pytest.mark.parametrize("where", ["the project", ".env", "home", "a folder", "/etc/passwd", "/etc/shadow"])
def test_nothing_of_the_machine_can_be_read(where, tmp_path):
    (tmp_path / ".env").write_text(SECRET)
    paths = {"the project": ROOT / "README.md", ".env": tmp_path / ".env", "home": Path.home() / ".bashrc"}
    path = paths.get(where, tmp_path if where == "a folder" else where)
    run = run_python(f"import os\ntry:\n    print(os.listdir({str(path)!r}) if os.path.isdir({str(path)!r}) "
                     f"else open({str(path)!r}).read())\nexcept OSError as e:\n    print(e.errno)")  # fmt: skip
    assert run.output == "2\n"


def test_nothing_can_be_written_where_the_council_lives(tmp_path):
    for folder in (ROOT, tmp_path, Path.home()):
        run = run_python(f"open({str(folder / 'escaped')!r}, 'w').write('x')")
        assert not run.ok and not (folder / "escaped").exists()


def test_no_environment_is_inherited(monkeypatch):
    monkeypatch.setenv("COUNCIL_API_KEY", SECRET)
    run = run_python("import os\nprint(dict(os.environ), os.path.exists(f'/proc/{os.getppid()}/environ'))")
    assert SECRET not in run.output and run.output.endswith("False\n")


def test_a_program_cannot_pass_for_a_failed_sandbox(caplog):
    run = run_python("import os\nos.write(2, b'no isolation: x')\nos._exit(125)")
    assert not run.ok and not caplog.records
    assert run_python("print(1)").ok


def test_the_machines_own_limit_on_namespaces_stays():
    limit = Path("/proc/sys/user/max_user_namespaces")
    before = limit.read_text()
    run_python("print(1)")
    assert limit.read_text() == before


def test_a_killed_council_leaves_no_program_behind():
    name = f"of {os.getpid()}"  # tells it from the council's trial program, which ends by itself, and from other tests'
    program = f"{C}libc.prctl(15, {name.encode()})\nimport time\ntime.sleep(60)"
    code = f"from agent0.council.sandbox import run_python\nrun_python({program!r}, 60)"
    council = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not (running := left_over(name)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        council.kill()
        council.wait()
    assert running and not survivors(running)


def test_where_it_cannot_isolate_it_runs_nothing(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "jail.py"
    broken.write_text("import sys\nprint('no isolation: not permitted', file=sys.stderr)\nsys.exit(125)")
    monkeypatch.setattr(sandbox, "JAIL", broken)
    sandbox.isolates.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(CouncilError, match="cannot be isolated"):
                run_python("print(1)")
        (record,) = caplog.records
        assert record.getMessage().endswith("no isolation: not permitted")
    finally:
        sandbox.isolates.cache_clear()


@pytest.mark.parametrize("name, program, output", [(e.name, e.program, e.prints) for e in ESCAPES if e.ends is None])
def test_the_same_holds_for_a_user_who_is_not_root(name, program, output):
    """As root, run the jail as another user; as anybody else, the tests above have done so."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if os.geteuid() != 0 or not python or not shutil.which("setpriv"):
        pytest.skip("not root, or no Python that others can read")
    command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", python, "-I", "-S", "-c", JAIL.read_text()]
    done = subprocess.run(
        [*command, "3", str(os.getpid())], input=program, capture_output=True, text=True, timeout=30, env={}, cwd="/"
    )
    assert done.returncode == 0 or output is None, done.stderr
    assert output is None or done.stdout == output, f"{name}: {done.stdout} {done.stderr}"
