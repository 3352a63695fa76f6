"""Run a function in a forked child under ptrace, and kill it just before its N-th system call that changes a file.

With a Journal, a power cut is simulated besides: what was written below one folder but not synced is taken back.
Linux on x86-64; nothing has to be installed.
"""

import contextlib
import ctypes
import os
import platform
import random
import re
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TRACEME, CONT_TO_SYSCALL, SET_OPTIONS, SYSCALL_INFO = 0, 24, 0x4200, 0x420E
OPTIONS = 1 | 2 | 4 | 8 | 0x100000  # mark system calls, follow fork, vfork and clone, kill all if the tracer dies
ENTRY = 1
SYSCALLS = {
    1: "write", 18: "pwrite64", 20: "writev", 74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate",
    82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 88: "symlink", 90: "chmod", 91: "fchmod",
    263: "unlinkat", 264: "renameat", 265: "linkat", 266: "symlinkat", 316: "renameat2",
}  # fmt: skip
supported = sys.platform == "linux" and platform.machine() == "x86_64"
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Ended:
    """How a run ended: the calls that it made, whether it was killed before the end, and what it acknowledged."""

    calls: int
    killed: bool
    said: list[str]


@dataclass
class Journal:
    """What was written below `folder` and not synced: enough to take it back, the newest first."""

    folder: Path
    undo: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    def note(self, pid: int, name: str, args: tuple[int, ...]) -> None:
        """Note one call before it is made."""
        if name in ("fsync", "fdatasync"):
            synced = _path_of(pid, args[0])
            self.undo = [(path, back) for path, back in self.undo if path != synced]
        elif name in ("write", "pwrite64", "ftruncate"):
            path = _path_of(pid, args[0])
            if path.startswith(f"{self.folder}/") and os.path.isfile(path):
                self.undo.append((path, _restore(path, *_span(pid, name, args, path))))
        elif name in ("rename", "link", "symlink"):
            target = os.path.join(os.readlink(f"/proc/{pid}/cwd"), _text(pid, args[1]))
            source = os.path.join(os.readlink(f"/proc/{pid}/cwd"), _text(pid, args[0]))
            if target.startswith(f"{self.folder}/"):
                self.undo.append((os.path.dirname(target), _unlink(name, source, target, Path(f"{self.folder}.kept"))))

    def cut_power(self, share: float, seed: int) -> None:
        """Take back that share of what was not synced."""
        luck = random.Random(seed)
        for _, back in reversed(self.undo):
            if luck.random() < share:
                back()
        for path in self.folder.rglob("*-shm"):  # shared memory does not survive a power cut
            path.unlink()


def run(work: Callable[[Callable[[str], None]], None], kill_at: int = 0, journal: Journal | None = None) -> Ended:
    """Run work(say) in a child; kill it before call number `kill_at` (0: never). Raises RuntimeError where it fails.

    What the child passes to `say` has been acknowledged to a user at that moment.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        _become_traced(work, ours, theirs)
    os.close(theirs)
    calls, killed = _trace(child, kill_at, journal)
    with os.fdopen(ours, encoding="utf-8") as told:
        said = told.read().split("\n")
    if said[-1] and not killed:
        raise RuntimeError(said[-1])
    return Ended(calls, killed, said[:-1])


def _become_traced(work: Callable, ours: int, theirs: int) -> None:
    code = 1
    try:
        os.close(ours)
        _libc.ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        work(lambda text: os.write(theirs, f"{text}\n".encode()))
        code = 0
    except BaseException:
        os.write(theirs, traceback.format_exc().replace("\n", "  ").encode())
    finally:
        os._exit(code)


def _trace(child: int, kill_at: int, journal: Journal | None) -> tuple[int, bool]:
    """Step all threads and processes of the child from one system call to the next."""
    os.waitpid(child, 0)
    _libc.ptrace(SET_OPTIONS, child, None, ctypes.c_void_p(OPTIONS))
    _libc.ptrace(CONT_TO_SYSCALL, child, None, None)
    calls, buffer = 0, ctypes.create_string_buffer(88)
    alive = {child}
    while alive:
        pid, status = os.waitpid(-1, 0x40000000)  # threads too
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            alive.discard(pid)
            continue
        alive.add(pid)
        stop, pass_on = os.WSTOPSIG(status), 0
        if stop == signal.SIGTRAP | 0x80:
            _libc.ptrace(SYSCALL_INFO, pid, ctypes.c_void_p(len(buffer)), buffer)
            operation, number, *args = struct.unpack_from("B23xQ6Q", buffer)
            if operation == ENTRY and number in SYSCALLS and _changes(pid, SYSCALLS[number], args):
                calls += 1
                if calls == kill_at:
                    for process in alive:
                        os.kill(process, signal.SIGKILL)
                    _bury()
                    return calls, True
                if journal:
                    journal.note(pid, SYSCALLS[number], tuple(args))
        elif stop not in (signal.SIGTRAP, signal.SIGSTOP):
            pass_on = stop
        _libc.ptrace(CONT_TO_SYSCALL, pid, None, ctypes.c_void_p(pass_on))
    return calls, False


def _bury() -> None:
    """Collect all that was killed: a process ends only after its threads."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0x40000000)


def _changes(pid: int, name: str, args: list[int]) -> bool:
    """Whether a call touches a file: a write to a pipe (what is said, stdout) or a socket changes none."""
    return name not in ("write", "writev") or _path_of(pid, args[0]).startswith("/") or _is_socket(pid, args[0])


def _is_socket(pid: int, handle: int) -> bool:
    return _path_of(pid, handle).startswith("socket:")


def _path_of(pid: int, handle: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{handle}")
    except OSError:
        return ""


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        memory.seek(address)
        return memory.read(4096).split(b"\0", 1)[0].decode()


def _span(pid: int, name: str, args: tuple[int, ...], path: str) -> tuple[int, int]:
    """The part of the file that a call is going to change: offset and length."""
    size = os.path.getsize(path)
    if name == "ftruncate":
        return args[1], max(0, size - args[1])
    if name == "pwrite64":
        return args[3], args[2]
    about = Path(f"/proc/{pid}/fdinfo/{args[0]}").read_text()
    appends = int(re.search(r"flags:\s*(\d+)", about)[1], 8) & os.O_APPEND
    return (size if appends else int(re.search(r"pos:\s*(\d+)", about)[1])), args[2]


def _restore(path: str, offset: int, length: int) -> Callable[[], None]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(offset)
        old = file.read(length)
    file = open(path, "r+b", buffering=0)  # noqa: SIM115 (the file itself, whatever it is called by then)

    def back() -> None:
        os.pwrite(file.fileno(), old, offset)
        os.ftruncate(file.fileno(), size)

    return back


def _unlink(name: str, source: str, target: str, beside: Path) -> Callable[[], None]:
    beside.mkdir(exist_ok=True)
    kept = beside / f"{random.getrandbits(64):x}"
    if os.path.islink(target) or os.path.isfile(target):
        os.link(target, kept, follow_symlinks=False)

    def back() -> None:
        if not os.path.lexists(target):
            return  # removed since: a journal keeps the order of the two
        if name == "rename":
            os.rename(target, source)
        else:
            os.unlink(target)
        if os.path.lexists(kept):
            os.rename(kept, target)

    return back
