"""Several processes that train together on one CPU machine: each takes its share of a step, gradients are averaged.

Two processes of one thread train faster than one process of two threads, whose small operations wait for each other.
On GPUs, and on several machines, `accelerate launch -m agent0.train` starts the processes instead.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence


def launched() -> bool:
    """Whether somebody (accelerate, torchrun, `together`) has started this process as one of several."""
    return "RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the one that writes what all have trained."""
    return int(os.environ.get("RANK", 0)) == 0


def choose_processes(passes: int) -> int:
    """How many processes share the forward passes of a step: the most that divide them, one a core."""
    import torch

    if launched() or torch.cuda.is_available():
        return 1
    return max(n for n in range(1, len(os.sched_getaffinity(0)) + 1) if math.gcd(n, passes) == n)


@contextlib.contextmanager
def together(count: int, command: Sequence[str]) -> Iterator[None]:
    """Make this process the first of `count`, and run `command` (arguments of Python) as each other one.

    The others are gone at the end, however it comes: they are asked to stop when this one fails.
    """
    if count == 1:
        yield
        return
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    place["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // count))
    before = dict(os.environ)
    os.environ.update(place, RANK="0", LOCAL_RANK="0")
    others = [
        subprocess.Popen([sys.executable, *command], env={**before, **place, "RANK": str(n), "LOCAL_RANK": str(n)})
        for n in range(1, count)
    ]
    try:
        yield
        for other in others:
            other.wait()
    finally:
        for other in others:
            other.send_signal(signal.SIGKILL)
            other.wait()
        _disband()
        os.environ.clear()
        os.environ.update(before)


def agree(value: str) -> str:
    """Return the first process's value, in each of those that train together."""
    import torch
    from accelerate import PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import broadcast_object_list

    AcceleratorState._reset_state(reset_partial_state=True)  # that of an earlier training
    PartialState(cpu=not torch.cuda.is_available())
    return broadcast_object_list([value])[0]


def _disband() -> None:
    """Be alone again: what is left of the group would wait for the others."""
    from accelerate.state import AcceleratorState
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
