"""Errors in OpenAI's form: {"error": {message, type, param, code}}."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from agent0.command import log

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a handler raises: an HTTP status and what the client can do about it."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, after: str = "1"):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.after = after  # seconds, or a date: when a client that is told 429 may come again

    def response(self) -> JSONResponse:
        headers = {"Retry-After": self.after} if self.status == 429 else {"WWW-Authenticate": "Bearer"}
        return JSONResponse(self.body(), self.status, headers if self.status in (401, 429) else None)

    def body(self) -> dict:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def install(app: FastAPI) -> None:
    """Give every failure of the app that form."""

    @app.exception_handler(ApiError)
    async def known(_: Request, error: ApiError):
        return error.response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException):
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError):
        first = error.errors()[0]
        not_json = first["type"] == "json_invalid"
        field = None if not_json else ".".join(str(part) for part in first["loc"][1:]) or None
        message = first["msg"].removeprefix("Value error, ")
        return ApiError(400, f"{field or 'the request'}: {message}", field, first["type"]).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return ApiError(500, "the server failed on this request; its log says why").response()
