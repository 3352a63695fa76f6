"""Where this machine may send to: https to public addresses, http to itself; anything else only if it is named.

A host is resolved once, every connection goes to an address that was checked, and nobody is redirected: a name that
means something else a moment later (DNS rebinding) leads nowhere.
"""

import http.client
import ipaddress
import socket
import ssl
from functools import lru_cache
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError

from agent0.settings import as_given

# Not public, whatever this Python says: metadata of Azure and Oracle, protocols, documentation, site-local addresses,
# IPv6 that stands for IPv4, and RFC 8215's, which stands for whatever its owner likes.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24"),
        *("::/96", "::ffff:0:0:0/96", "fec0::/10", "3fff::/20", "5f00::/16", "64:ff9b:1::/48"),
    )
]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(ValueError):
    """The URL, or the address that its host has, may not be sent to. The message holds no more of it than the host."""


def checked_host(url: str) -> str:
    """Return the URL's host. Raises Forbidden unless it is https, or http to loopback or to an allowed host."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("https", "http") or any(letter in url for letter in "\\ \t\r\n"):
        raise Forbidden("this is not an https:// URL; mend it")
    if parts.username is not None or parts.password is not None:
        raise Forbidden(f"{host}: a name or password in a URL ends up in logs; take it out")
    if parts.scheme == "http" and not is_loopback(host) and host not in allowed_hosts():
        raise Forbidden(f"{host} must be https:// off this machine; mend it, or name {host} in COUNCIL_ALLOWED_HOSTS")
    if (address := _literal(host)) is not None:
        _check(host, address)
    return host


def allowed_hosts() -> set[str]:
    """The hosts that COUNCIL_ALLOWED_HOSTS names."""
    return {name.strip().lower() for name in as_given("COUNCIL_ALLOWED_HOSTS").split(",") if name.strip()}


def is_loopback(host: str) -> bool:
    """Whether the host is this machine itself, by the name localhost or by its address."""
    address = _literal(host)
    return host == "localhost" if address is None else address.is_loopback


def session(connections: int = 4) -> requests.Session:
    """Return a session that connects only to addresses which may be sent to; others raise Forbidden."""
    made = requests.Session()
    made.trust_env = False  # a proxy would resolve the name itself, and ~/.netrc takes the place of a key
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Adapter(pool_maxsize=connections))
    return made


def connect(url: str, timeout: float) -> http.client.HTTPConnection:
    """Return an open connection to the URL's host, for who wants to break one off; `timeout` is of each wait, seconds.

    Raises Forbidden, or OSError where nobody answers.
    """
    parts, host = urlsplit(url), checked_host(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    connected = socket.create_connection((address_of(host, port), port), timeout)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=_trusted())
        connection.sock = _trusted().wrap_socket(connected, server_hostname=host)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.sock = connected
    return connection


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=requests.certs.where())


def address_of(host: str, port: int) -> str:
    """Resolve the host once and return its address. Raises Forbidden where one of its addresses is."""
    try:
        found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError as error:  # of an impossible name, as with two dots
        raise Forbidden(f"{host} is not the name of a host") from error
    for address in found:
        _check(host, ipaddress.ip_address(address.partition("%")[0]))
    return found[0]


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # the other forms of 127.0.0.1 leave this machine


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one stands for, else the address."""
    if address.version == 6:
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _check(host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    address = _plain(address)
    public = address.is_global and not address.is_multicast and not any(address in net for net in _NOT_PUBLIC)
    fine = address.is_loopback if is_loopback(host) else public
    if not fine and host.lower() not in allowed_hosts():
        raise Forbidden(f"{host} is at {address}, which is private; if that is right, name it in COUNCIL_ALLOWED_HOSTS")


def _pinned(kind: type[HTTPConnection]) -> type[HTTPConnection]:
    class Pinned(kind):
        def _new_conn(self) -> socket.socket:
            name = self._dns_host
            try:
                self._dns_host = address_of(name, self.port)
                return super()._new_conn()
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            finally:
                self._dns_host = name  # the certificate is that of the name

    return Pinned


class _Pool(HTTPConnectionPool):
    ConnectionCls = _pinned(HTTPConnection)


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _pinned(HTTPSConnection)


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *arguments, **options) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
