"""Ways out of the sandbox: what each tries, in Python, and what it meets.

`prints` is the whole output (None: any), `ends` part of the reason for which the program fails (None: it ends well).
"""

from typing import NamedTuple


class Escape(NamedTuple):
    name: str
    program: str
    prints: str | None
    ends: str | None


C = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"  # C's view of the system

ESCAPES = [
    Escape(
        "fork children that fork",
        """\
import os
while True:
    os.fork()
""",
        None,
        "",
    ),
    Escape(
        "count the forks that succeed",
        """\
import os, time
n = 0
try:
    while True:
        n += 1
        os.fork() or time.sleep(60)
except BlockingIOError:
    print(n < 9)
""",
        "True\n",
        None,
    ),
    Escape(
        "start threads",
        """\
import threading, time
try:
    for n in range(99):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
except RuntimeError:
    print(n < 9)
""",
        "True\n",
        None,
    ),
    Escape(
        "leave a daemon behind",
        """\
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        time.sleep(60)
    os._exit(0)
time.sleep(0.1)
print('gone')
""",
        "gone\n",
        None,
    ),
    Escape(
        "ignore signals in a session of its own",
        """\
import os, signal, time
signal.signal(15, signal.SIG_IGN)
os.fork() and os._exit(0)
os.setsid()
time.sleep(60)
""",
        "",
        None,
    ),
    Escape(
        "kill the parent",
        """\
import os
os.kill(os.getppid(), 9)
print(os.getppid())
""",
        "1\n",
        None,
    ),
    Escape(
        "kill everything",
        """\
import os
os.kill(-1, 9)
""",
        "",
        "No such process",
    ),
    Escape(
        "kill the council by its number",
        """\
import os
try:
    os.kill(11848, 9)
except ProcessLookupError:
    print('nobody')
""",
        "nobody\n",
        None,
    ),
    Escape(
        "kill the council's group",
        """\
import os
try:
    os.killpg(os.getpgid(os.getppid()), 9)
except OSError as e:
    print('nobody')
else:
    print('only itself')
""",
        None,
        "",
    ),
    Escape(
        "trace the guard",
        C
        + """\
print(libc.ptrace(16, 1, 0, 0))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "read the guard's memory",
        C
        + """\
b = (ctypes.c_uint64 * 2)()
print(libc.process_vm_readv(1, b, 1, b, 1, 0))
""",
        "-1\n",
        None,
    ),
    Escape(
        "run a shell",
        """\
import subprocess
try:
    subprocess.run(['/bin/sh', '-c', 'id'])
except OSError as e:
    print(e.errno)
""",
        "2\n",
        None,
    ),
    Escape(
        "run by os.system",
        """\
import os
print(os.system('id') != 0)
""",
        "True\n",
        None,
    ),
    Escape(
        "sleep forever",
        """\
import time
time.sleep(10 ** 6)
""",
        "",
        "no end after 1 s",
    ),
    Escape(
        "spin forever",
        """\
while True:
    pass
""",
        "",
        "",
    ),
    Escape(
        "wait for input",
        """\
print(repr(input()))
""",
        "",
        "EOFError",
    ),
    Escape(
        "cancel the alarm",
        """\
import signal, time
signal.alarm(0)
time.sleep(60)
""",
        "",
        "no end after 1 s",
    ),
    Escape(
        "take all memory",
        """\
x = []
while True:
    x.append(bytearray(1 << 24))
""",
        "",
        "MemoryError",
    ),
    Escape(
        "take all memory at once",
        """\
bytearray(1 << 40)
""",
        "",
        "MemoryError",
    ),
    Escape(
        "recurse deeply",
        """\
def f():
    f()
f()
""",
        "",
        "RecursionError",
    ),
    Escape(
        "smash the stack of C",
        """\
import sys
sys.setrecursionlimit(10 ** 9)
def f(n):
    return [f(n)]
x = None
for _ in range(10 ** 6):
    x = (x,)
repr(x)
print('no')
""",
        "",
        "",
    ),
    Escape(
        "raise the limits",
        """\
import resource
try:
    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
except (ValueError, OSError):
    print('kept')
""",
        "kept\n",
        None,
    ),
    Escape(
        "share memory past the limit",
        C
        + """\
print(libc.shmget(0, 1 << 20, 0o1600))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "leave messages in the kernel",
        C
        + """\
print(libc.msgget(0, 0o1600))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "keep memory in a nameless file",
        """\
import os
f = os.memfd_create('x')
try:
    os.ftruncate(f, 1 << 30)
except OSError as e:
    print(e.errno)
""",
        "27\n",
        None,
    ),
    Escape(
        "print forever",
        """\
while True:
    print('x' * 1000)
""",
        None,
        "",
    ),
    Escape(
        "complain forever",
        """\
import sys
while True:
    sys.stderr.write('x' * 1000)
""",
        "",
        "",
    ),
    Escape(
        "write a huge file",
        """\
try:
    open('x', 'wb').write(bytes(1 << 26))
except OSError as e:
    print(e.errno)
""",
        "27\n",
        None,
    ),
    Escape(
        "write many files",
        """\
n = 0
try:
    while True:
        n += 1
        open(str(n), 'wb').write(bytes(1 << 17))
except OSError as e:
    print(e.errno, n < 200)
""",
        "28 True\n",
        None,
    ),
    Escape(
        "write to the machine's /tmp",
        """\
open('/tmp/escaped', 'w').write('x')
print('in its own')
""",
        "in its own\n",
        None,
    ),
    Escape(
        "write beside Python",
        """\
import os
try:
    open(os.__file__, 'a')
except OSError as e:
    print(e.errno in (13, 30))
""",
        "True\n",
        None,
    ),
    Escape(
        "write to the root",
        """\
try:
    open('/x', 'w')
except OSError as e:
    print(e.errno in (13, 30))
""",
        "True\n",
        None,
    ),
    Escape(
        "follow a symbolic link out",
        """\
import os
os.symlink('/etc/passwd', 'x')
try:
    open('x')
except FileNotFoundError:
    print('nothing there')
""",
        "nothing there\n",
        None,
    ),
    Escape(
        "climb out by ..",
        """\
try:
    open('../../../../../../etc/passwd')
except FileNotFoundError:
    print('nothing')
""",
        "nothing\n",
        None,
    ),
    Escape(
        "link a file of Python's",
        """\
import os
try:
    os.link(os.__file__, 'x')
except OSError as e:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "open disks and memory",
        """\
import os
devices = ('/dev/vda', '/dev/sda', '/dev/mem', '/dev/kmsg', '/dev/fuse', '/dev/shm', '/dev/nvidia0')
print([path for path in devices if os.path.exists(path)])
""",
        "[]\n",
        None,
    ),
    Escape(
        "make a device",
        """\
import os, stat
try:
    os.mknod('d', 0o600 | stat.S_IFBLK, os.makedev(254, 0))
except PermissionError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "use inherited files",
        """\
import os
open_files = []
for n in range(3, 64):
    try:
        os.fstat(n)
        open_files.append(n)
    except OSError:
        pass
print(open_files)
""",
        "[]\n",
        None,
    ),
    Escape(
        "look into /proc and /sys",
        """\
import os
print([p for p in ('/proc', '/sys', '/run', '/var', '/home', '/boot') if os.path.exists(p)])
""",
        "[]\n",
        None,
    ),
    Escape(
        "change root and climb",
        """\
import os
os.mkdir('r')
try:
    os.chroot('r')
except PermissionError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "open a TCP socket",
        """\
import socket
try:
    socket.create_connection(('127.0.0.1', 22), 1)
except PermissionError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "open a UDP socket",
        """\
import socket
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
except PermissionError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "open a socket of the virtual machine",
        C
        + """\
print(libc.socket(40, 1, 0))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "listen on a Unix socket",
        C
        + """\
print(libc.socket(1, 1, 0))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "ask the name server",
        """\
import socket
try:
    print(socket.gethostbyname('example.com'))
except OSError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "fetch a page",
        """\
import urllib.request
try:
    urllib.request.urlopen('http://127.0.0.1:8000', timeout=1)
except OSError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "become root",
        """\
import os
try:
    os.setuid(0)
except OSError as e:
    print(e.errno, os.getuid())
""",
        "22 65534\n",
        None,
    ),
    Escape(
        "make a namespace",
        C
        + """\
print(libc.unshare(0x10000000))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "make a namespace by clone",
        C
        + """\
print(libc.syscall({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 0x10000011, 0, 0, 0, 0))
print(ctypes.get_errno())
""",
        "-1\n28\n",
        None,
    ),
    Escape(
        "mount",
        C
        + """\
print(libc.mount(b'none', b'/tmp', b'tmpfs', 0, None))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "unmount",
        C
        + """\
print(libc.umount2(b'/tmp', 2))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "set the clock",
        """\
import time
try:
    time.clock_settime(0, 0)
except PermissionError:
    print('no')
""",
        "no\n",
        None,
    ),
    Escape(
        "set up io_uring",
        C
        + """\
print(libc.syscall(425, 1, None))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
    Escape(
        "call the kernel by another table",
        C
        + """\
if os.uname().machine == 'x86_64':
    libc.syscall(0x40000000 | 41, 1, 1, 0)
else:
    libc.socket(1, 1, 0)
print(ctypes.get_errno())
""",
        "1\n",
        None,
    ),
    Escape(
        "load a BPF program",
        C
        + """\
print(libc.syscall({'x86_64': 321, 'aarch64': 280}[os.uname().machine], 0, None, 0))
print(ctypes.get_errno())
""",
        "-1\n1\n",
        None,
    ),
]
