"""What a release says to fixed prompts: recorded by PEFT, repeated by a real server, or the release goes."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from agent0 import adapters, fingerprint, rollout
from agent0.command import ROLLED_BACK, CouncilError
from agent0.settings import get_settings
from tests.adapters.files import make_plain
from tests.adapters.suite import tiny_server


@pytest.fixture
def place(home, monkeypatch):
    for name in ("COUNCIL_HOME", "BASE_MODEL", "MAX_TOKENS"):  # so that they go when the test ends
        monkeypatch.setenv(name, str(home))
    with tiny_server(home) as place:
        monkeypatch.setenv("COUNCIL_URL", place.client.url)
        get_settings.cache_clear()
        yield place
    get_settings.cache_clear()


def make_release(seed, fingerprinted=True):
    staging = Path(tempfile.mkdtemp(dir=get_settings().loras, prefix=".staging-"))
    staging.rmdir()
    make_plain(staging, seed)
    if fingerprinted:
        fingerprint.record(staging)
    return adapters.publish(staging, {})


def test_a_server_with_the_release_repeats_its_fingerprint(place):
    release = make_release(1)
    assert fingerprint.FILE in release.manifest["files"]
    place.client.load_adapter(release.name, str(release.path))
    fingerprint.check(place.client, release.path, release.name)
    assert fingerprint.difference(place.client, release.path, release.name) < 1e-3
    recorded = json.loads((release.path / fingerprint.FILE).read_text())["prompts"]
    assert [answer["prompt"] for answer in recorded] == list(fingerprint.PROMPTS)


def test_other_weights_and_no_adapter_are_noticed(place):
    release, other = make_release(1), make_release(2)
    place.client.load_adapter(release.name, str(other.path))
    for name in (release.name, "base"):
        with pytest.raises(CouncilError, match="other weights"):
            fingerprint.check(place.client, release.path, name)


def test_a_release_without_a_fingerprint_is_let_through(place, caplog):
    release = make_release(1, fingerprinted=False)
    with caplog.at_level("INFO", "council"):
        fingerprint.check(place.client, release.path, release.name)
    assert "no fingerprint" in caplog.text


def test_a_deployment_of_what_the_server_does_not_serve_is_rolled_back_at_once(place):
    """The server holds other weights under the candidate's name, and says that it has it already."""
    release, other = make_release(1), make_release(2)
    adapters.point("current", adapters.Release(place.good))
    place.client.load_adapter(release.name, str(other.path))
    assert rollout.deploy(release.name) == ROLLED_BACK
    told = json.loads((release.path / "rollback_summary.json").read_text())
    assert "log-probabilities" in told["reason"] and told["steps"] == []
    assert adapters.target("current").path == place.good and place.client.health()["adapter"] == place.good.name
    assert list(adapters.links("failed").values()) == [release]


def test_a_truncated_fingerprint_is_refused_with_its_release(place):
    release = make_release(1)
    copy = release.path.with_name(".staging-copy")
    shutil.copytree(release.path, copy)
    (copy / fingerprint.FILE).chmod(0o644)
    (copy / fingerprint.FILE).write_text("{")
    with pytest.raises(CouncilError, match="not JSON"):
        fingerprint.check(place.client, copy, release.name)
