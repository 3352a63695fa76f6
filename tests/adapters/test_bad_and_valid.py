"""Bad adapters of every kind are refused and change nothing; valid ones are taken and compute what PEFT does."""

import pytest

from agent0.serve.torch_decoder import TorchDecoder
from agent0.settings import get_settings
from tests.adapters.__main__ import DIFFERENCE_AT_MOST, REFUSED_AT_MOST, UNSUPPORTED
from tests.adapters.suite import tiny_server
from tests.adapters.valid import RANKS, try_variant, variants
from tests.unit.tiny_council import make_model


@pytest.fixture
def place(home, monkeypatch):
    for name in ("COUNCIL_HOME", "BASE_MODEL", "MAX_TOKENS"):  # so that they go when the test ends
        monkeypatch.setenv(name, str(home))
    with tiny_server(home) as place:
        yield place
    get_settings.cache_clear()


def test_bad_adapters_are_refused_and_what_is_served_stays_the_same_to_the_bit(place):
    tried = place.try_all()
    assert len({refusal.kind for refusal in tried}) == len(tried) >= 60
    assert [refusal.kind for refusal in tried if not refusal.by] == []
    assert [refusal.kind for refusal in tried if not refusal.unchanged] == []
    alone = [refusal.kind for refusal in tried if refusal.alone is False]
    assert all("base model" in kind for kind in alone)  # the manifest knows the base, the engine alone does not
    assert "fresh" not in place.engine.router.names


def test_valid_adapters_are_taken_and_compute_what_peft_does(place):
    decoders = [TorchDecoder(make_model())]
    tried = [try_variant(dtype, options, decoders) for dtype, options in variants(len(RANKS))]
    assert sum(bool(trial.refused) for trial in tried) <= REFUSED_AT_MOST * len(tried)
    assert [trial.kind for trial in tried if trial.difference > DIFFERENCE_AT_MOST] == []


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(place, name):
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **UNSUPPORTED[name]}
    trial = try_variant("fp32", options, [])
    assert trial.refused and next(iter(UNSUPPORTED[name])) in trial.refused
