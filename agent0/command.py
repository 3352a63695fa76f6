"""What every command shares: exit codes, one-line errors, and a log that follows the scripts."""

import argparse
import errno
import logging
import os
import sys
import time
from collections.abc import Callable

DONE, FAILED, USAGE, NOTHING_TO_DO, ROLLED_BACK, REFUSED, LOCKED = 0, 1, 2, 10, 20, 30, 75
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)

log = logging.getLogger("council")


class CouncilError(Exception):
    """A failure that a user can act on: one clear line and the exit code that goes with it."""

    def __init__(self, message: str, exit_code: int = FAILED):
        super().__init__(message)
        self.exit_code = exit_code


def start_log() -> None:
    """Send `log` to stdout and to each file that COUNCIL_LOG names, one UTC-stamped line a message."""
    formatter = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    files = [name for name in os.environ.get("COUNCIL_LOG", "").split(":") if name]
    log.handlers.clear()
    for handler in [logging.StreamHandler(sys.stdout), *map(logging.FileHandler, files)]:
        handler.setFormatter(formatter)
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = logging.raiseExceptions = False  # a log file on a full disk drowns no message in tracebacks


def no_arguments(header: str) -> None:
    """Print a command's header where --help is asked for, and refuse any other argument (exit 2)."""
    argparse.ArgumentParser(description=header, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()


def run_command(main: Callable[[], int | None]) -> None:
    """Run main() and exit with its code; a CouncilError becomes one line on stderr and in the log."""
    os.umask(0o077)  # questions and answers are their users' own: nobody else on the machine reads what is written
    start_log()
    try:
        sys.exit(main() or DONE)
    except CouncilError as error:
        _report(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _report("interrupted")
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL:
            _report(f"{error.filename or 'a file'}: {error.strerror}; make room on the disk, and run it again")
            sys.exit(FAILED)
        for handler in log.handlers[1:]:
            handler.handle(log.makeRecord("council", logging.ERROR, "", 0, "unexpected error", (), sys.exc_info()))
        raise


def _report(message: str) -> None:
    line = f"{os.path.basename(sys.argv[0])}: {message}"
    print(line, file=sys.stderr)
    for handler in log.handlers[1:]:
        handler.handle(log.makeRecord("council", logging.ERROR, "", 0, line, (), None))
