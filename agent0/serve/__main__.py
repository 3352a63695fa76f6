"""Start the Council server at COUNCIL_URL: python -m agent0.serve"""

import os
import signal
import socket
import sys
from urllib.parse import urlsplit

import uvicorn

from agent0 import adapters
from agent0.command import USAGE, CouncilError, log, no_arguments, run_command
from agent0.serve.api import create_app
from agent0.serve.callers import is_loopback
from agent0.serve.errors import ApiError
from agent0.serve.interface import Engine
from agent0.serve.limits import PatientProtocol
from agent0.settings import exposed_secret, get_settings
from faiss_memory import FaissMemory

FINISH_SECONDS = 120  # after a signal to stop, what is still in flight then is cut off
QUIET = 10  # seconds without a request after which questions are embedded, until one comes


def listen() -> socket.socket:
    """Return a socket bound to COUNCIL_URL. Raises CouncilError where it must not or cannot be."""
    settings = get_settings()
    url = urlsplit(settings.council_url)
    host = url.hostname or ""
    if url.scheme != "http":
        raise CouncilError(
            f"COUNCIL_URL={settings.council_url}: the server speaks http; put a TLS proxy before it", USAGE
        )
    if not is_loopback(host) and settings.council_api_key is None:
        raise CouncilError(f"COUNCIL_URL={settings.council_url} is open to others; set COUNCIL_API_KEY first", USAGE)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, url.port or 80, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, ValueError) as error:
        raise CouncilError(f"COUNCIL_URL={settings.council_url}: {error}; is another server running there?") from None
    return bound


def load_engine() -> Engine:
    """The engine that ENGINE names; the upstream one loads no torch. Raises CouncilError where it cannot start."""
    if get_settings().engine == "upstream":
        from agent0.serve.upstream import load_engine as load
    else:
        from agent0.serve.engine import load_engine as load
    return load()


def serve_current(engine: Engine) -> None:
    """Load what loras/current points to and let it answer. Raises CouncilError where it is not fit to serve.

    Where a deployment was cut off before its verdict, what served before it answers.
    """
    current = get_settings().loras / "current"
    if not os.path.lexists(current):
        return
    try:
        release = adapters.validate((adapters.interrupted() or {}).get("previous", current))
        if release.is_base:
            return
        engine.load(release.name, release.path)
    except (CouncilError, ValueError, ApiError) as error:
        code = getattr(error, "exit_code", 1)
        raise CouncilError(f"loras/current: {error}; go back with `bash rollback_lora.sh`", code) from None
    engine.router.route(release.name)


def stop(*_) -> None:
    """A signal to stop is obeyed, not died of; while uvicorn runs, it first finishes what is in flight."""
    sys.exit(0)


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    bound = listen()
    if exposed := exposed_secret():
        log.warning(exposed)
    engine, memory = load_engine(), FaissMemory()
    serve_current(engine)
    log.info("the Council answers at %s with adapter %s", get_settings().council_url, engine.router.stable)
    memory.embed_in_background(lambda: engine.quiet_for() > QUIET)
    app = create_app(engine, memory)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    no_arguments(__doc__)
    run_command(main)
