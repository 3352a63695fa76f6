"""Answers go to memory beside their way to the client: a slow disk delays no answer."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from agent0.command import log

WRITERS = 4  # memory writes for all that wait at the same time
MOST = 4096  # answers that may wait for the disk; what comes beyond is answered and not kept


class Keeper:
    """Writes answers to a FaissMemory in the background, in no promised order. What waits is lost with the process.

    An answer is known by its id from `keep` on: feedback for one that is still being written waits for it.
    """

    def __init__(self, memory):
        self._memory, self._pool = memory, ThreadPoolExecutor(WRITERS, "memory")
        self._pending: dict[str, Future] = {}
        self._lock = threading.RLock()  # a write that is done at once is noted by the thread that keeps it

    def keep(self, query: str, record: dict) -> None:
        """Have an answer written; what cannot be written is said in the log, with its id."""
        with self._lock:
            if len(self._pending) < MOST:
                self._pending[record["id"]] = written = self._pool.submit(self._memory.add, query, record)
                written.add_done_callback(lambda _: self._written(record["id"], written))
                return
        log.error("answer %s was given but is not kept: %d wait for the disk", record["id"], MOST)

    def _written(self, id: str, written: Future) -> None:
        with self._lock:
            self._pending.pop(id, None)
        if error := written.exception():
            log.error("answer %s was given but could not be kept in memory", id, exc_info=error)

    async def feedback(self, id: str, **verdict) -> None:
        """Store a user's verdict on an answer, like FaissMemory.feedback."""
        with self._lock:
            written = self._pending.get(id)
        if written:
            await asyncio.wait([asyncio.wrap_future(written)])
        await asyncio.to_thread(self._memory.feedback, id, **verdict)

    def close(self) -> None:
        """Write what waits."""
        self._pool.shutdown()
