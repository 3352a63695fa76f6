"""The pages for people: the morning reports, and why an answer came out as it did.

A report is a file that anybody on this machine may read. Whoever wants to change something, or reads from elsewhere,
signs in once with COUNCIL_API_KEY, or with the token that the server logs at its start; a cookie then stands for it
until the server restarts. A form is taken only from a page of this very server (its Origin).
"""

import hmac
import secrets
from hashlib import sha256
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from agent0 import report
from agent0.command import CouncilError, log
from agent0.serve.callers import is_here
from agent0.settings import get_settings
from agent0.why import explain

COOKIE = "council"
MAX_FORM = 4096  # bytes
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Visitors:
    """Who may read and who may act."""

    def __init__(self):
        key = get_settings().council_api_key
        self._token = key.get_secret_value() if key else secrets.token_urlsafe(16)
        self.cookie = hmac.new(secrets.token_bytes(32), self._token.encode(), sha256).hexdigest()
        which = "COUNCIL_API_KEY" if key else f"the token {self._token}"
        log.info("the morning report: %s/ (to overrule, sign in with %s)", get_settings().council_url, which)

    def knows(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())

    def signed(self, request: Request) -> bool:
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self.cookie.encode())

    def may_read(self, request: Request) -> bool:
        """Signed in, or here."""
        return is_here(request) or self.signed(request)

    def same_origin(self, request: Request) -> bool:
        """Whether a form was sent from a page of this server."""
        origin, host = request.headers.get("origin", ""), request.headers.get("host")
        return bool(host) and origin in (f"http://{host}", f"https://{host}")


def install(app: FastAPI, memory, visitors: Visitors) -> None:
    """Add the pages that are read to the app."""
    _add_reading(app, memory, visitors)
    _add_signing_in(app, visitors)


def page(name: str, visitors: Visitors, request: Request, status: int = 200, **values) -> Response:
    """One of agent0/pages as the visitor may see it."""
    seen = "signed" if visitors.signed(request) else "reader"
    html = report.template(name).render(seen=seen, **values)
    return HTMLResponse(html, status, headers=_HEADERS)


def message_page(visitors: Visitors, request: Request, title: str, text: str, status: int = 200) -> Response:
    return page("message.html", visitors, request, status, title=title, text=text)


def _add_reading(app: FastAPI, memory, visitors: Visitors) -> None:
    def shown(request: Request, day: str | None) -> Response:
        if not visitors.may_read(request):
            return page("sign_in.html", visitors, request, 401, wrong=False)
        path = report.report_path(day) if day else None
        if path is None or not path.is_file():
            return message_page(visitors, request, "No such report", "There is none of that day.", 404)
        seen = "signed" if visitors.signed(request) else "reader"
        door = "" if seen == "signed" else '<a href="/sign-in">sign in to overrule</a> · '
        path = report.refreshed(day) if day == report.reported_days()[0] else path
        html = path.read_text(encoding="utf-8").replace('<body class="file">', f'<body class="{seen}">', 1)
        return HTMLResponse(html.replace("<!--overrule-->", door, 1), headers=_HEADERS)

    @app.get("/")
    def latest(request: Request) -> Response:
        days = report.reported_days()
        if days or not visitors.may_read(request):
            return shown(request, days[0] if days else None)
        text = (
            "No night has been reported yet: `make night` runs one, `make cron-line` prints the line for every night."
        )
        return message_page(visitors, request, "Good morning", text)

    @app.get("/reports")
    def reports(request: Request) -> Response:
        if not visitors.may_read(request):
            return page("sign_in.html", visitors, request, 401, wrong=False)
        return page("reports.html", visitors, request, days=report.reported_days())

    @app.get("/reports/{day}")
    def of_day(request: Request, day: str) -> Response:
        return shown(request, day if day in report.reported_days() else None)

    @app.get("/why/{answer}")
    def why(request: Request, answer: str) -> Response:
        if not visitors.may_read(request):
            return page("sign_in.html", visitors, request, 401, wrong=False)
        try:
            return page("why.html", visitors, request, why=explain(answer, memory))
        except CouncilError as error:
            return message_page(visitors, request, "Why?", str(error), 404)


def _add_signing_in(app: FastAPI, visitors: Visitors) -> None:
    @app.get("/sign-in")
    def ask(request: Request) -> Response:
        return page("sign_in.html", visitors, request, wrong=False)

    @app.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        form = await form_of(request)
        if not visitors.same_origin(request) or not visitors.knows(form.get("token", "")):
            log.warning("somebody at %s failed to sign in", request.client.host if request.client else "?")
            return page("sign_in.html", visitors, request, 403, wrong=True)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, visitors.cookie, httponly=True, samesite="strict", secure=secure)
        return answer


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a small urlencoded form; the first where one comes twice, none where it is too big or has many."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_FORM:
            return {}
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}
