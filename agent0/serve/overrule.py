"""The forms by which people overrule, from the pages: veto an example, mark an answer, refuse a release, roll back."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from agent0 import veto
from agent0.command import DONE, CouncilError
from agent0.refuse import refuse_release
from agent0.serve.pages import Visitors, form_of, message_page, page
from agent0.settings import ROOT

Act = Callable[[dict[str, str]], tuple[str, str]]  # from a form's fields to a title and a sentence


def install(app: FastAPI, memory, visitors: Visitors) -> None:
    """Add what the forms do to the app."""

    async def overrule(request: Request, act: Act) -> Response:
        """Let a signed-in person, on a page of this server, do something; show what came of it."""
        if not (visitors.signed(request) and visitors.same_origin(request)):
            return page("sign_in.html", visitors, request, 403, wrong=False)
        try:
            title, text = await run_in_threadpool(act, await form_of(request))
        except CouncilError as error:
            return message_page(visitors, request, "That did not work", str(error), 400)
        except KeyError as error:
            return message_page(visitors, request, "That did not work", f"memory holds no answer {error}", 404)
        return message_page(visitors, request, title, text)

    @app.post("/veto")
    async def vetoed(request: Request) -> Response:
        return await overrule(request, _veto)

    @app.post("/thumb")
    async def thumb(request: Request) -> Response:
        def judge(form: dict[str, str]) -> tuple[str, str]:
            answer, success = form.get("answer", ""), form.get("success") == "true"
            memory.feedback(answer, success=success)
            return "Noted", f"Answer {answer} is marked {'right' if success else 'wrong'}."

        return await overrule(request, judge)

    @app.post("/refuse")
    async def refused(request: Request) -> Response:
        who = f"somebody on the page, at {request.client.host if request.client else '?'}"
        return await overrule(request, lambda form: _refuse(form, who))

    @app.post("/rollback")
    async def rollback(request: Request) -> Response:
        return await overrule(request, _roll_back)


def _veto(form: dict[str, str]) -> tuple[str, str]:
    example, undo = form.get("example", ""), form.get("undo") == "true"
    changed = veto.veto(example, "from the page", undo)
    state = "is allowed again" if undo else "is vetoed: the next training goes without it"
    return ("Done" if changed else "Nothing to do"), f"Example {example} {state}."


def _refuse(form: dict[str, str], who: str) -> tuple[str, str]:
    release, undo = _release(form), form.get("undo") == "true"
    changed = refuse_release(release, who, undo)
    state = "is allowed again" if undo else "is refused: it is never deployed, unless somebody allows it again"
    return ("Done" if changed else "Nothing to do"), f"{release} {state}."


def _roll_back(form: dict[str, str]) -> tuple[str, str]:
    """Run rollback_lora.sh, which locks, logs and tells. Raises CouncilError with its last line where it fails."""
    release, script = _release(form), Path(ROOT / "rollback_lora.sh")
    done = subprocess.run(["bash", str(script), "--to", release], capture_output=True, text=True, timeout=300)
    said = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode != DONE:
        raise CouncilError(said[-1] if said else f"rollback_lora.sh ended with exit code {done.returncode}")
    return "Rolled back", f"{release} serves now."


def _release(form: dict[str, str]) -> str:
    release = form.get("release", "")
    if not release or release.startswith("-"):
        raise CouncilError("name the release")
    return release
