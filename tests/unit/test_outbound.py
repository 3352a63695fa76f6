"""Where webhook and endpoints may lead: forty URLs, names that change their address, and redirects."""

import socket
import ssl

import pytest
import requests

from agent0 import outbound
from agent0.settings import get_settings
from tests.webhook import Receiver

PUBLIC = "93.184.216.34"
NAMES = {
    "hooks.example.org": [PUBLIC],
    "localhost": ["127.0.0.1"],
    "inside.example.org": ["10.0.0.5"],
    "mixed.example.org": [PUBLIC, "192.168.0.1"],
    "loop.example.org": ["127.0.0.1"],
    "metadata.google.internal": ["169.254.169.254"],
    "six.example.org": ["fd00::1"],
    "mapped.example.org": ["::ffff:127.0.0.1"],
    "2130706433": ["127.0.0.1"],
    "0x7f000001": ["127.0.0.1"],
    "0177.0.0.1": ["127.0.0.1"],
    "127.1": ["127.0.0.1"],
    "localhost.example.org": ["127.0.0.1"],
    "localhost.": ["127.0.0.1"],
    "vllm.lan": ["10.0.0.7"],
}
ALLOWED = [
    "https://hooks.example.org/x",
    "https://hooks.example.org:8443/x?y#z",
    f"https://{PUBLIC}/x",
    "https://[2606:2800:220:1:248:1893:25c8:1946]/x",
    "http://127.0.0.1:8000/x",
    "http://127.9.9.9/x",
    "http://localhost:8000/x",
    "http://[::1]:8000/x",
    "https://localhost/x",
]
FORBIDDEN = [
    "http://hooks.example.org/x",
    f"http://{PUBLIC}/x",
    "https://10.0.0.5/x",
    "https://172.16.0.1/x",
    "https://192.168.1.1/x",
    "https://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://100.64.0.1/x",
    "https://0.0.0.0/x",
    "https://255.255.255.255/x",
    "https://224.0.0.1/x",
    "https://[fd00::1]/x",
    "https://[fe80::1]/x",
    "https://[ff02::1]/x",
    "https://[::]/x",
    "https://[::ffff:10.0.0.1]/x",
    "https://[64:ff9b::a9fe:a9fe]/x",
    "https://[2002:a00:1::]/x",
    "https://[fec0::1]/x",
    "https://[::10.0.0.1]/x",
    "https://[::ffff:0:10.0.0.1]/x",
    "http://[2002:7f00:1::]/x",
    "http://[64:ff9b::7f00:1]/x",
    "https://168.63.129.16/x",
    "https://192.0.0.192/x",
    "https://inside.example.org/x",
    "https://mixed.example.org/x",
    "https://loop.example.org/x",
    "https://six.example.org/x",
    "https://mapped.example.org/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0177.0.0.1/x",
    "https://127.1/x",
    "https://localhost.example.org/x",
    "https://localhost./x",
    "https://user:password@hooks.example.org/x",
    "https://hooks.example.org@127.0.0.1/x",
    "https://hooks.example.org\\@127.0.0.1/x",
    "ftp://hooks.example.org/x",
    "file:///etc/passwd",
    "gopher://127.0.0.1:25/x",
    "//hooks.example.org/x",
    "https:///x",
    "https://hooks.example.org:port/x",
    "https://[::1/x",
    "https://hooks.example.org /x",
]


@pytest.fixture
def names(monkeypatch):
    """A resolver that knows NAMES; tests may change what they mean. Nothing is sent to public addresses."""
    known = {name: list(addresses) for name, addresses in NAMES.items()}

    def resolve(host, port, *_, **__):
        try:
            addresses = known.get(host) or [str(outbound.ipaddress.ip_address(host))]
        except ValueError:
            raise socket.gaierror(-2, "Name or service not known") from None
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses
        ]

    monkeypatch.setattr(outbound.socket, "getaddrinfo", resolve)
    return known


def may_be_sent_to(url: str) -> bool:
    """What the webhook and the endpoints ask before and while they connect."""
    try:
        host = outbound.checked_host(url)
        outbound.address_of(host, 443)
    except outbound.Forbidden:
        return False
    return True


@pytest.mark.parametrize("url", ALLOWED)
def test_https_to_the_world_and_http_to_this_machine(names, url):
    assert may_be_sent_to(url)


@pytest.mark.parametrize("url", FORBIDDEN)
def test_nothing_else(names, url):
    assert not may_be_sent_to(url)


def test_a_host_of_ones_own_network_has_to_be_named(names, monkeypatch):
    assert not may_be_sent_to("http://vllm.lan:8000/v1")
    monkeypatch.setenv("COUNCIL_ALLOWED_HOSTS", "other.lan, VLLM.lan")
    get_settings.cache_clear()
    assert may_be_sent_to("http://vllm.lan:8000/v1")
    assert not may_be_sent_to("https://inside.example.org/x")


def test_a_name_that_changes_its_address_leads_nowhere(names):
    asked = []
    resolve = outbound.socket.getaddrinfo

    def rebinds(host, *arguments, **options):
        asked.append(host)
        names["hooks.example.org"] = ["127.0.0.1"] if len(asked) > 1 else [PUBLIC]
        return resolve(host, *arguments, **options)

    outbound.socket.getaddrinfo = rebinds
    outbound.checked_host("https://hooks.example.org/x")
    assert outbound.address_of("hooks.example.org", 443) == PUBLIC
    with pytest.raises(outbound.Forbidden, match=r"127\.0\.0\.1, which is private"):
        outbound.session().get("https://hooks.example.org/x", timeout=5)


def test_the_connection_goes_to_the_address_that_was_checked(names, monkeypatch):
    with Receiver() as receiver:
        port = receiver.server.server_port
        monkeypatch.setenv("COUNCIL_ALLOWED_HOSTS", "vllm.lan")
        get_settings.cache_clear()
        names["vllm.lan"] = ["127.0.0.1"]
        answer = outbound.session().post(f"http://vllm.lan:{port}/x", json={"a": 1}, timeout=5)
    assert answer.status_code == 200 and receiver.received == [{"a": 1}]
    assert answer.request.url.startswith("http://vllm.lan")


def test_a_name_that_nobody_knows_is_a_connection_that_fails(names):
    with pytest.raises(requests.ConnectionError):
        outbound.session().get("https://nobody.example.org/x", timeout=5)


def test_the_certificate_is_still_that_of_the_name(names, monkeypatch):
    seen = []
    monkeypatch.setenv("COUNCIL_ALLOWED_HOSTS", "vllm.lan")
    get_settings.cache_clear()
    wrap = ssl.SSLContext.wrap_socket
    monkeypatch.setattr(
        ssl.SSLContext, "wrap_socket", lambda *a, **o: (seen.append(o.get("server_hostname")), wrap(*a, **o))[1]
    )
    with Receiver() as receiver:
        names["vllm.lan"] = ["127.0.0.1"]
        with pytest.raises(requests.ConnectionError):
            outbound.session().get(f"https://vllm.lan:{receiver.server.server_port}/", timeout=5)
    assert seen == ["vllm.lan"]


def test_neither_a_proxy_nor_netrc_of_the_environment_has_a_say(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login me password s3cret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Receiver() as receiver:
        answer = outbound.session().post(receiver.url, json={"a": 1}, headers={"Authorization": "Bearer k"}, timeout=5)
    assert receiver.received == [{"a": 1}] and answer.request.headers["Authorization"] == "Bearer k"
