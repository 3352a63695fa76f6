"""Who calls: a client here, on the server's own machine, or one that needs the key."""

import hmac
import ipaddress
from urllib.parse import urlsplit

from fastapi import Request

from agent0.serve.errors import ApiError
from agent0.settings import get_settings

FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_here(request: Request) -> bool:
    """Whether a client on this machine calls this machine by its own name.

    The name is checked since a page from elsewhere can make its own domain point to 127.0.0.1 (DNS rebinding), and
    since a proxy on this machine may pass on the name that strangers have called. It need not (nginx,
    unless told), and strangers may call any name: so where a key is set, check_key asks everybody for it.
    """
    if any(name in request.headers for name in FORWARDED):
        return False
    client = request.client.host if request.client else ""
    return is_loopback(client) and is_loopback(host_of(f"//{request.headers.get('host', '')}"))


def host_of(url: str) -> str:
    """The host of a URL; empty where it has none, or is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def check_key(request: Request) -> None:
    """What changes state needs the key; without a key set, only who is here may. Raises ApiError 401, 403."""
    key = get_settings().council_api_key
    if key is None:
        if is_here(request):
            return
        raise ApiError(
            403, "this is for clients on the server's own machine, as localhost; set COUNCIL_API_KEY to allow others"
        )
    given = request.headers.get("Authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {key.get_secret_value()}".encode()):
        raise ApiError(401, "send the header Authorization: Bearer <COUNCIL_API_KEY>", code="invalid_api_key")
