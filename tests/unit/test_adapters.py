"""loras/: what is published, what is refused and why, where links point, what is pruned."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from lora_kit import ALL_LINEAR, make_base, make_release, stage, write_safetensors

from agent0 import adapters
from agent0.adapter_checks import CONFIG, MANIFEST, WEIGHTS
from agent0.command import REFUSED, CouncilError
from agent0.records import write_json
from agent0.settings import ROOT, get_settings

Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(autouse=True)
def base(home, monkeypatch):
    return make_base(home / "models" / "tiny", monkeypatch)


def refused(call, *words):
    with pytest.raises(CouncilError) as caught:
        call()
    assert caught.value.exit_code == REFUSED
    for word in words:
        assert word in str(caught.value)


def promote(release, when):
    write_json(release.path / "deployment_summary.json", {"verdict": "promoted", "timings": {"finished": when}})


# Valid adapters


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "BF16"},
        {"dtype": "F16"},
        {"rank": 1},
        {"rank": 64},
        {"rank": 256},
        {"modules": ALL_LINEAR},
        {"modules": ["down_proj"], "dtype": "BF16"},
        {"lora_alpha": 256},
    ],
    ids=str,
)
def test_valid_adapters_are_published_and_accepted(options):
    release = make_release(**options)
    assert adapters.validate(release.path) == release
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", release.name)
    assert release.path.parent.name == "adapters"
    assert not release.is_base


def test_full_module_names_are_accepted():
    full = [f"model.layers.{n}.self_attn.q_proj" for n in range(2)]
    assert make_release(modules=["q_proj"], target_modules=full)


def test_the_manifest_says_where_the_release_comes_from(base):
    manifest = make_release().manifest
    assert manifest["files"].keys() == {CONFIG, WEIGHTS}
    assert manifest["base_model"] == "tiny"
    assert len(manifest["base_model_hash"]) == 64
    assert manifest["example_ids"] == ["e0"] and manifest["parent"] == "base"


def test_summaries_may_be_added_later():
    release = make_release()
    promote(release, 1)
    (release.path / ".rollback_summary.json.x1y2z3w4").write_text("{")  # what a crash amid the write leaves
    assert adapters.validate(release.name) == release


def test_validation_imports_no_torch():
    release = make_release(dtype="BF16")
    code = (
        f"import sys; from agent0 import adapters; adapters.validate({release.name!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# Refusals before publication: numbers and configuration


def set_first(value):
    def change(weights):
        weights[Q0][0, 0] = value

    return change


def without(pattern):
    def change(weights):
        for name in [name for name in weights if re.search(pattern, name)]:
            del weights[name]

    return change


def renamed(old, new):
    def change(weights):
        for name in [name for name in weights if old in name]:
            weights[name.replace(old, new)] = weights.pop(name)

    return change


def added(name):
    def change(weights):
        weights[name] = weights[Q0]

    return change


def reshaped(weights):
    weights[Q0] = weights[Q0][:, :-1]


BROKEN = {
    "NaN": ({"change": set_first(float("nan"))}, [Q0, "NaN"]),
    "infinite": ({"change": set_first(float("inf"))}, [Q0, "infinite"]),
    "NaN in bf16": ({"change": set_first(float("nan")), "dtype": "BF16"}, [Q0, "NaN"]),
    "infinite in bf16": ({"change": set_first(float("-inf")), "dtype": "BF16"}, [Q0, "infinite"]),
    "absurd weight": ({"change": set_first(1e30)}, [Q0, "beyond"]),
    "half the keys": ({"change": without("lora_B")}, ["lora_B", "missing", "lora_A", "no partner"]),
    "one partner missing": ({"change": without(r"1\.self_attn\.v_proj\.lora_A")}, ["1.self_attn.v_proj.lora_A"]),
    "a layer missing": ({"change": without(r"layers\.1\.")}, ["layers.1.", "no weights"]),
    "a module missing": ({"change": without("k_proj")}, ["k_proj", "missing"]),
    "extra key": ({"change": added("lm_head.weight")}, ["lm_head.weight", "the name must be"]),
    "extra module": ({"change": added(Q0.replace("self_attn.q", "mlp.up"))}, ["up_proj", "not among"]),
    "layer out of range": ({"change": added(Q0.replace("s.0.", "s.7."))}, ["layer 7", "layers 0 to 1"]),
    "no prefix": ({"change": renamed("base_model.model.", "")}, ["the name must be"]),
    "empty": ({"change": without("")}, ["holds no tensor"]),
    "wrong shape": ({"change": reshaped}, [Q0, "(4, 7)", "(4, 8)"]),
    "wrong rank": ({"r": 8, "lora_alpha": 16}, ["(4, 8)", "(8, 8)"]),
    "fp64": ({"dtype": "F64"}, ["F64"]),
    "alpha 32000": ({"lora_alpha": 32000}, ["lora_alpha=32000", "1024"]),
    "alpha 0": ({"lora_alpha": 0}, ["lora_alpha=0"]),
    "alpha text": ({"lora_alpha": "8"}, ["lora_alpha='8'"]),
    "alpha NaN": ({"lora_alpha": float("nan")}, ["lora_alpha=nan"]),
    "alpha/r": ({"rank": 1, "lora_alpha": 100}, ["lora_alpha/r = 100", "64"]),
    "rank 0": ({"r": 0}, ["r=0"]),
    "rank 512": ({"r": 512}, ["r=512", "256"]),
    "rank true": ({"r": True}, ["r=True"]),
    "not LoRA": ({"peft_type": "IA3"}, ["IA3", "LORA"]),
    "wrong base name": ({"base_model_name_or_path": "gpt2"}, ["gpt2", "tiny"]),
    "no base name": ({"base_model_name_or_path": None}, ["base_model_name_or_path"]),
    "unknown module": ({"target_modules": ["q_proj", "c_attn"]}, ["c_attn", "not a linear layer"]),
    "module pattern": ({"target_modules": ".*proj"}, ["target_modules", "list"]),
    "no module": ({"target_modules": []}, ["target_modules"]),
    "dora": ({"use_dora": True}, ["use_dora"]),
    "ranks by pattern": ({"rank_pattern": {"q_proj": 8}}, ["(4, 8)", "(8, 8)"]),
    "saved modules": ({"modules_to_save": ["lm_head"]}, ["modules_to_save"]),
    "bias": ({"bias": "all"}, ["bias"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_adapters_are_refused_with_their_reason(name):
    options, words = BROKEN[name]
    staging = stage(**options)
    refused(lambda: adapters.publish(staging, {}), *words)
    assert adapters.releases() == []


def sign_and_place(staging):
    """Make a release as an attacker or another program would: a good manifest and name around bad content."""
    folder = get_settings().loras / "adapters"
    folder.mkdir(exist_ok=True)
    manifest = {
        "base_model": "tiny",
        "base_model_hash": adapters.base_model_hash(),
        "created": 1.0,
        "files": {p.name: adapters.hashlib.sha256(p.read_bytes()).hexdigest() for p in staging.iterdir()},
    }
    write_json(staging / MANIFEST, manifest)
    digest = adapters.hashlib.sha256((staging / MANIFEST).read_bytes()).hexdigest()[:8]
    return staging.rename(folder / f"20260101T000000Z-{digest}")


@pytest.mark.parametrize("name", BROKEN)
def test_validate_refuses_what_publish_refuses(name):
    options, words = BROKEN[name]
    path = sign_and_place(stage(**options))
    refused(lambda: adapters.validate(path), *words)


def test_validate_accepts_a_good_release_made_elsewhere():
    assert adapters.validate(sign_and_place(stage()))


# Refusals of files


def test_truncated_weights_are_refused():
    staging = stage()
    whole = (staging / WEIGHTS).read_bytes()
    (staging / WEIGHTS).write_bytes(whole[:-10])
    refused(lambda: adapters.publish(staging, {}), WEIGHTS, "safetensors")


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_what_is_not_safetensors_is_refused(content):
    staging = stage()
    (staging / WEIGHTS).write_bytes(content)
    refused(lambda: adapters.publish(staging, {}), WEIGHTS, "cannot be read")


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_missing_files_are_refused(missing):
    staging = stage()
    (staging / missing).unlink()
    refused(lambda: adapters.publish(staging, {}), missing, "missing")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_configuration_that_is_no_json_object_is_refused(text):
    staging = stage()
    (staging / CONFIG).write_text(text)
    refused(lambda: adapters.publish(staging, {}), CONFIG, "JSON")


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "state.pkl", "scheduler.pth", "run.py",
                                  "refusal.json.pkl", ".gate_summary.json.pt"])  # fmt: skip
def test_pickles_and_code_are_refused(name):
    staging = stage()
    (staging / name).write_bytes(b"x")
    refused(lambda: adapters.publish(staging, {}), name, "pickle")


def test_links_and_folders_inside_a_release_are_refused(home):
    staging = stage()
    (staging / "notes.md").symlink_to(home / "secret")
    refused(lambda: adapters.publish(staging, {}), "notes.md", "link")
    staging = stage()
    (staging / "checkpoint-1").mkdir()
    refused(lambda: adapters.publish(staging, {}), "checkpoint-1", "regular files only")


def test_files_changed_after_signing_are_refused():
    for name in (CONFIG, WEIGHTS):
        release = make_release()
        path = release.path / name
        path.chmod(0o644)
        path.write_bytes(path.read_bytes().replace(b'"', b"'", 1))
        refused(lambda release=release: adapters.validate(release.name), name, "changed", "signed")


def test_a_manifest_changed_after_signing_is_refused():
    release = make_release()
    changed = {**release.manifest, "example_ids": []}
    write_json(release.path / MANIFEST, changed)
    refused(lambda: adapters.validate(release.name), MANIFEST, "changed")


def test_weights_swapped_together_with_the_manifest_are_refused():
    release = make_release()
    write_safetensors(release.path / WEIGHTS, {})
    write_json(release.path / MANIFEST, {**release.manifest, "files": adapters.adapter_checks.hashes(release.path)})
    refused(lambda: adapters.validate(release.name), MANIFEST)


def test_files_added_or_removed_after_signing_are_refused():
    grown, shrunk, bare = make_release(), make_release(), make_release()
    (grown.path / "config.json").write_text("{}")
    refused(lambda: adapters.validate(grown.name), "config.json", "not in the manifest")
    (shrunk.path / CONFIG).unlink()
    refused(lambda: adapters.validate(shrunk.name), CONFIG, "missing")
    (bare.path / MANIFEST).unlink()
    refused(lambda: adapters.validate(bare.name), MANIFEST, "missing")


def test_another_base_model_refuses_the_release(home, monkeypatch):
    release = make_release()
    make_base(home / "other" / "tiny", monkeypatch, seed=1)
    refused(lambda: adapters.validate(release.name), "base_model_hash", "BASE_MODEL")


def test_facts_of_another_base_model_are_refused():
    refused(lambda: adapters.publish(stage(), {"base_model_hash": "0" * 64}), "base_model_hash")


def test_only_a_staging_folder_is_published(home):
    folder = stage().rename(home / "loras" / "elsewhere")
    with pytest.raises(CouncilError, match="staging"):
        adapters.publish(folder, {})


# Paths


def test_every_name_of_a_release_resolves(home):
    release = make_release()
    adapters.point("latest", release)
    adapters.point("current", release)
    adapters.point("backup_20260101", release)
    names = [release.name, "latest", "current", "loras/latest", "loras/latest/", "backup_20260101", str(release.path)]
    names += [f"adapters/{release.name}", f"loras/adapters/{release.name}", str(home / "loras" / "current")]
    for name in names:
        assert adapters.resolve(name) == release, name


def test_what_lies_outside_is_refused(home, tmp_path_factory):
    release = make_release()
    outside = tmp_path_factory.mktemp("outside") / release.name
    shutil.copytree(release.path, outside)
    (home / "loras" / "adapters" / "sneaky").symlink_to(outside)
    (home / "loras" / "real").mkdir()
    staged = stage()
    for name in [outside, "sneaky", "loras/adapters/../../../x", "..", ".", "", "loras", "loras/real", staged.name]:
        refused(lambda name=name: adapters.resolve(name), str(name))
    refused(lambda: adapters.resolve("latest"), "no such release")


def test_a_folder_at_home_does_not_hide_a_release(home):
    adapters.ensure_base()
    (home / "base").mkdir()
    assert adapters.resolve("base").is_base


def test_base_is_always_there_and_valid():
    first = adapters.ensure_base()
    assert first == adapters.ensure_base() == adapters.validate("base")
    assert first.is_base and first.manifest["base"] is True
    write_safetensors(first.path / WEIGHTS, {})
    refused(lambda: adapters.validate("base"), WEIGHTS)


# Links


def test_links_are_relative_straight_and_move(home):
    one, two = make_release(1), make_release(2)
    adapters.point("latest", one)
    adapters.point("current", adapters.resolve("latest"))
    assert os.readlink(home / "loras" / "current") == f"adapters/{one.name}"
    adapters.point("current", two)
    assert adapters.target("current") == two and adapters.target("latest") == one
    assert not list((home / "loras").glob(".link-*"))


def test_a_link_made_by_hand_through_another_does_not_move_with_it(home):
    first, second = make_release(1), make_release(2)
    adapters.point("latest", first)
    (adapters.adapters_folder().parent / "current").symlink_to("latest")
    adapters.point("latest", second)
    assert (adapters.target("current"), adapters.target("latest")) == (first, second)


def test_links_survive_a_move_of_the_home(home):
    release = make_release()
    adapters.point("current", release)
    moved = shutil.copytree(home / "loras", home / "moved", symlinks=True)
    assert (moved / "current").resolve() == moved / "adapters" / release.name


def test_a_missing_or_dangling_link_has_no_target():
    assert adapters.target("current") is None
    release = make_release()
    adapters.point("current", release)
    shutil.rmtree(release.path)
    assert adapters.target("current") is None


def test_only_known_links_are_made(home):
    release = make_release()
    for name in ("adapters", "../current", "failed", "current/x", ".staging-x"):
        with pytest.raises(CouncilError):
            adapters.point(name, release)


def test_a_real_folder_in_a_links_place_is_named(home):
    release = make_release()
    (home / "loras" / "latest").mkdir()
    with pytest.raises(CouncilError, match=r"latest.*move away"):
        adapters.point("latest", release)
    assert not list((home / "loras").glob(".link-*"))


def test_two_links_in_one_second_do_not_collide():
    one, two = make_release(1), make_release(2)
    for release in (one, two, one):
        adapters.point(adapters.stamped("rollback"), release)
    assert list(adapters.links("rollback").values()) == [one, two, one]


def test_two_releases_in_one_second_do_not_collide():
    assert len({make_release().name for _ in range(3)}) == 3


# Rollback targets


def test_no_release_no_target():
    assert adapters.rollback_targets() == []


def test_targets_are_good_releases_newest_first_and_base_last():
    base, first, second, third, never_served = adapters.ensure_base(), *[make_release(n) for n in range(4)]
    for release in (base, first, second):
        adapters.point(adapters.stamped("rollback"), release)
    for when, release in enumerate((first, second, third), 1):
        promote(release, when)
    adapters.point("current", third)
    assert adapters.rollback_targets() == [second, first, base]
    assert never_served not in adapters.rollback_targets()


def test_a_release_that_failed_is_no_target():
    base, good, bad = adapters.ensure_base(), make_release(1), make_release(2)
    for when, release in enumerate((good, bad), 1):
        promote(release, when)
    adapters.point("current", make_release(3))
    adapters.point(adapters.stamped("failed"), bad)
    assert adapters.rollback_targets() == [good, base]
    adapters.drop_links("failed", bad)
    assert adapters.rollback_targets() == [bad, good, base]


def test_what_was_rolled_back_during_its_watch_is_no_target():
    release = make_release(1)
    write_json(release.path / "rollback_summary.json", {"verdict": "rolled back"})
    adapters.point("current", make_release(2))
    assert adapters.rollback_targets() == [adapters.ensure_base()]


def test_a_lost_current_can_go_back_to_base():
    release = make_release()
    adapters.point("current", release)
    shutil.rmtree(release.path)
    assert adapters.rollback_targets() == [adapters.ensure_base()]


# Pruning


def test_prune_keeps_what_is_in_use_and_the_newest(home):
    base = adapters.ensure_base()
    old = [make_release(n) for n in range(6)]
    current, latest, target, newest = (sign(n) for n in (9, 8, 7, 6))
    adapters.point("current", current)
    adapters.point("latest", latest)
    adapters.point(adapters.stamped("rollback"), target)
    adapters.point("backup_1", old[0])
    adapters.prune(keep=1)
    left = {release.name for release in adapters.releases()}
    keep = sorted((r.name for r in [*old, newest]), reverse=True)[0]
    assert left == {base.name, current.name, latest.name, target.name, keep}
    assert not os.path.lexists(home / "loras" / "backup_1") or adapters.target("backup_1")
    assert adapters.target("current") == current


def sign(seed):
    """A valid release that looks older than all published ones."""
    return adapters.Release(sign_and_place(stage(seed=seed)))


def test_prune_removes_links_to_what_went_and_older_doubles(home):
    base, old, current = adapters.ensure_base(), make_release(1), make_release(2)
    adapters.point("current", current)
    adapters.point("failed_1", old)
    for _ in range(3):
        adapters.point(adapters.stamped("rollback"), base)
    newest = next(iter(adapters.links("rollback")))
    gone = adapters.prune(keep=0)
    assert f"adapters/{old.name}" in gone and "failed_1" in gone
    assert not os.path.lexists(home / "loras" / "failed_1")
    assert list(adapters.links("rollback")) == [newest]


def test_prune_never_touches_a_deployment_under_way(home):
    candidate, previous = make_release(1), make_release(2)
    write_json(home / "loras" / ".deploying.json", {"candidate": candidate.name, "previous": previous.name})
    adapters.prune(keep=0)
    assert {candidate, previous} <= set(adapters.releases())


def test_prune_removes_stale_leftovers_only(home):
    fresh, stale = stage(), stage()
    long_ago = time.time() - 7 * 3600
    (home / "loras" / ".link-x").symlink_to("adapters/none")
    os.utime(home / "loras" / ".link-x", (long_ago, long_ago), follow_symlinks=False)
    for path in (stale, *stale.iterdir()):
        os.utime(path, (long_ago, long_ago))
    adapters.prune(keep=5)
    assert fresh.exists() and not stale.exists()
    assert not os.path.lexists(home / "loras" / ".link-x")


# Commands


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "agent0.adapters", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_the_commands_speak_and_exit_clearly():
    release = make_release()
    adapters.point("latest", release)
    valid = run("validate", "loras/latest")
    assert valid.returncode == 0 and release.name in valid.stdout
    listed = run("list")
    assert re.search(rf"{release.name} +latest", listed.stdout)
    (release.path / "adapter_model.bin").write_bytes(b"x")
    broken = run("validate", "latest")
    assert broken.returncode == REFUSED
    assert "adapter_model.bin" in broken.stderr and len(broken.stderr.splitlines()) == 1
    assert json.loads((release.path / MANIFEST).read_text())["parent"] == "base"
