"""Runs the Python program given on stdin where it can do no harm. sandbox.py starts it as a script; stdlib only.

Namespaces of its own leave the program without network, other processes, IPC or files, save a read-only Python and an
empty /tmp in memory. It runs as nobody without capabilities, under rlimits and a system-call filter. The one mechanism
serves root (who first gives up being root) and everybody else; where a step fails, nothing is run: exit 125.
"""

import ctypes
import errno
import os
import platform
import resource
import select
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534
CANNOT = 125  # exit status: the program was not run
MEGABYTE = 1 << 20
LIMITS = {
    resource.RLIMIT_AS: 256 * MEGABYTE,  # a process
    resource.RLIMIT_FSIZE: MEGABYTE // 4,  # a file, stdout among them
    resource.RLIMIT_NPROC: 8,  # of nobody in this namespace, with the two that guard it
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_CORE: 0,
}
PYTHON = os.path.realpath(sys.executable)
RUNTIME = [PYTHON, os.path.join(os.path.realpath(sys.base_prefix), "lib")]  # bound read-only, where it exists
RUNTIME += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
CLONE_REST = 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # UTS, IPC, PID, network
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_LOCKED_DOWN = 2, -100, 0x8000, 1 | 2 | 4  # read-only, no suid, no dev
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
# The filter's architecture, pivot_root, and what a program must not call. No namespace confines the sockets of virtual
# machines; System V's memory and messages escape the limits; the rest widens the kernel's face for nothing. In order:
# socket ptrace shmget semget msgget unshare setns mount bpf keyctl add_key request_key perf_event_open userfaultfd
# process_vm_readv process_vm_writev
_NUMBERS = {
    "x86_64": (0xC000003E, 155, [41, 101, 29, 64, 68, 272, 308, 165, 321, 250, 248, 249, 298, 323, 310, 311]),
    "aarch64": (0xC00000B7, 41, [198, 117, 194, 190, 186, 97, 268, 40, 280, 219, 217, 218, 241, 282, 270, 271]),
}
_DENIED_EVERYWHERE = [425, 426, 427, 428, 429, 430, 431, 432, 442]  # io_uring, the new mount API
SYS_MOUNT_SETATTR = 442

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    """Raise OSError where a call of libc failed."""
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def unshare(flags: int) -> None:
    must(libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    texts = [text.encode() if text is not None else None for text in (source, target, kind)]
    must(libc.mount(*texts, ctypes.c_ulong(flags), options.encode() if options else None), f"mount {target}")


def lock_down(path: str) -> None:
    """Make a mount, and all below it, read-only without devices and set-uid programs."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_LOCKED_DOWN, 0, 0, 0)
    call = (SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))
    must(libc.syscall(*call), f"mount_setattr {path}")


def put(proc: int, name: str, text: str) -> None:
    """Write to a file below /proc, whose folder was opened before it went out of sight."""
    file = os.open(name, os.O_WRONLY, dir_fd=proc)
    os.write(file, text.encode())
    os.close(file)


def become_nobody(proc: int, user: int, group: int) -> None:
    """Name ourselves, until now user and group, nobody in the user namespace just made; no one else exists there."""
    put(proc, "self/setgroups", "deny")
    put(proc, "self/uid_map", f"{NOBODY} {user} 1")
    put(proc, "self/gid_map", f"{NOBODY} {group} 1")


def build_root(program: bytes) -> None:
    """Leave the old root for one in memory that holds Python, read-only, and /tmp with the program."""
    _, pivot_root, _ = _NUMBERS[platform.machine()]
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp/old")
    must(libc.syscall(pivot_root, b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    for path in runtime():
        show(path)
    os.mkdir("/tmp")
    must(libc.umount2(b"/old", MNT_DETACH), "umount")
    os.rmdir("/old")
    lock_down("/")
    mount("none", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=16m,mode=1777")
    Path("/tmp/program.py").write_bytes(program)


def runtime() -> list[str]:
    """The paths that Python needs, none below another."""
    paths = sorted(set(RUNTIME), key=len)
    return [path for path in paths if not any(path.startswith(other + "/") for other in paths)]


def show(path: str) -> None:
    """Bind a path of the old root at its place in the new one, or repeat its symbolic link."""
    old = "/old" + path
    if not os.path.lexists(old):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):
        os.symlink(os.readlink(old), path)
        return
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        Path(path).touch()
    mount(old, path, None, MS_BIND | MS_REC)


def filter_calls() -> None:
    """Answer EPERM to the denied system calls, and to those of any other architecture."""
    architecture, _, denied = _NUMBERS[platform.machine()]
    denied = sorted({*denied, *_DENIED_EVERYWHERE})
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050000 | 1, 0x7FFF0000
    end = len(denied) + 1  # how far the refusal at the very end lies from the first of the tests below
    steps = [(load, 0, 0, 4), (equal, 0, end + 2, architecture), (load, 0, 0, 0), (at_least, end, 0, 0x40000000)]
    steps += [(equal, end - 1 - n, 0, number) for n, number in enumerate(denied)]
    steps += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    must(libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0), "seccomp")


def die_with_parent(alive: Callable[[], bool]) -> None:
    """Be killed when the parent dies; raise OSError if it is not `alive` any more, which no signal would tell."""
    must(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if not alive():
        raise OSError(errno.ESRCH, "the parent has died")


def run_program(seconds: int) -> None:
    """Become the program: nobody, without capabilities, since that is what exec leaves to a user who is not root."""
    for limit, most in {**LIMITS, resource.RLIMIT_CPU: seconds}.items():
        resource.setrlimit(limit, (most, most))
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    filter_calls()
    os.chdir("/tmp")
    os.execve(PYTHON, [PYTHON, "-I", "-S", "-X", "utf8", "/tmp/program.py"], {})


def guard(body, *arguments) -> int:
    """Fork, let the child run body, and return the child's exit status (128 + n where signal n ended it)."""
    parent_lives, held_by_parent = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(held_by_parent)
            die_with_parent(lambda: not select.select([parent_lives], [], [], 0)[0])
            os._exit(body(*arguments))
        except BaseException as error:
            os._exit(cannot(error))
    while True:  # as the first process of its namespace it inherits orphans, and reaps them
        ended, status = os.wait()
        if ended == child:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def cannot(error: BaseException) -> int:
    os.write(2, f"no isolation: {type(error).__name__}: {error}\n".encode())
    return CANNOT


def main(seconds: int, council: int) -> int:
    program = sys.stdin.buffer.read()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.umask(0o022)
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    signal.alarm(seconds * 2 + 1)  # should nobody else end us
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        unshare(CLONE_NEWNS)
        build_root(program)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        must(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
    else:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        become_nobody(proc, user, group)
        build_root(program)
    die_with_parent(lambda: os.getppid() == council)
    unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_REST)
    become_nobody(proc, NOBODY, NOBODY)
    put(proc, "sys/user/max_user_namespaces", "0")  # of this namespace alone: no way back to capabilities
    os.close(proc)
    return guard(guard, run_program, seconds)


if __name__ == "__main__":
    try:
        sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
    except (OSError, KeyError) as error:
        sys.exit(cannot(error))
