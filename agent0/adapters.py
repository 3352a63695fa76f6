"""All of loras/: releases that never change once published, and the links that say which of them serves.

python -m agent0.adapters validate PATH | list | waiting | prune
"""

import argparse
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from agent0 import adapter_checks, ledger
from agent0.adapter_checks import MANIFEST, refuse
from agent0.command import DONE, CouncilError, log, run_command
from agent0.models import base_model_hash, base_model_name
from agent0.records import sync_folder, write_json
from agent0.settings import get_settings

BASE = "base"
JOURNAL = ".deploying.json"  # the deployment under way: {candidate, previous, started}
REFUSED = "refusal.json"  # beside the weights of a release that a person refused: {by, timestamp}
KINDS = ("backup", "rollback", "failed")  # links with a time in their name
STALE_SECONDS = 6 * 3600  # a staging folder untouched for longer was left behind by a crash
_LINK_NAME = re.compile(rf"latest|current|({'|'.join(KINDS)})_[\w.-]+")
_STAGING, _TEMPORARY_LINK, _STAMP = ".staging-", ".link-", "%Y%m%dT%H%M%S"


@dataclass(frozen=True)
class Release:
    """One folder loras/adapters/<name>; `base` is the release without an adapter."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def is_base(self) -> bool:
        return self.name == BASE

    @cached_property
    def manifest(self) -> dict:
        """What publish() recorded. Raises CouncilError (exit 30) where it is missing or damaged."""
        return adapter_checks.read_json(self.path / MANIFEST)

    @property
    def created(self) -> float:
        return float(self.manifest.get("created", 0))


def adapters_folder() -> Path:
    return get_settings().loras.resolve() / "adapters"


def publish(staging: Path, facts: dict) -> Release:
    """Make the folder `staging` (loras/.staging-*) a release: sign, check, fsync, one rename.

    `facts` (ids and hash of the data, parent, ...) go into the manifest. Raises CouncilError, exit 30, for an adapter
    that validate() would refuse; staging then stays where it was.
    """
    folder, parent = adapters_folder(), staging.resolve().parent
    if parent not in (folder, folder.parent) or not staging.name.startswith(_STAGING):
        raise CouncilError(f"{staging}: a release is made from a folder {folder.parent}/{_STAGING}*; write it there")
    folder.mkdir(parents=True, exist_ok=True)
    base = {"base_model": base_model_name(), "base_model_hash": base_model_hash()}
    adapter_checks.check_kinds(staging)
    manifest = {**base, **facts, "created": time.time(), "files": adapter_checks.hashes(staging)}
    write_json(staging / MANIFEST, manifest)
    adapter_checks.check_adapter(staging, manifest)
    _sync_files(staging)
    name = f"{datetime.now(UTC).strftime(_STAMP)}Z-{_signature(staging)}"
    os.rename(staging, folder / name)
    sync_folder(folder)
    return Release(folder / name)


def _sync_files(staging: Path) -> None:
    """Make the staged files durable, readable by all, writable by none."""
    for path in staging.iterdir():
        path.chmod(0o444)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    staging.chmod(0o755)
    sync_folder(staging)


def _signature(folder: Path) -> str:
    """The manifest's hash, which is part of the release's name: so the manifest cannot change unseen either."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:8]


def ensure_base() -> Release:
    """Return adapters/base, the release "no adapter", made where it is missing."""
    folder = adapters_folder()
    base = Release(folder / BASE)
    if base.path.exists():
        return base
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=folder, prefix=_STAGING))
    write_json(staging / MANIFEST, {"base": True, "created": 0, "files": {}})
    _sync_files(staging)
    try:
        os.rename(staging, base.path)
    except OSError:
        shutil.rmtree(staging)
        if not base.path.exists():  # else another process was quicker, and its base is as good
            raise
    sync_folder(folder)
    return base


def resolve(wanted: str | Path) -> Release:
    """Return the release that a path, a link's name or a release's name stands for.

    Relative names are looked up in COUNCIL_HOME, then in loras/, then in loras/adapters/.
    Raises CouncilError (exit 30) where there is none, or where it lies outside loras/adapters.
    """
    home, folder = get_settings().council_home, adapters_folder()
    places = [place / wanted for place in (home, folder.parent, folder)]  # an absolute path stays itself
    found = [path.resolve() for path in places if os.path.exists(path)]  # False, too, for what no path can be
    for path in found:
        if path.parent == folder and path.is_dir() and not path.name.startswith("."):
            return Release(path)
    if found:
        raise refuse(f"{wanted}: {found[0]} is not a release in {folder}", "only published releases are used")
    raise refuse(f"{wanted}: no such release", "see `python -m agent0.adapters list`, or train one")


def validate(wanted: str | Path) -> Release:
    """Return the release, checked from its files to its numbers, without loading the base model.

    Raises CouncilError (exit 30) that names the file or tensor, the rule, and what to do; or who refused the release.
    """
    release = resolve(wanted)
    if mark := refused(release):
        raise refuse(f"{release.name} was refused by {mark['by']}", f"`python -m agent0.refuse {release.name} --undo`")
    adapter_checks.check_kinds(release.path)
    adapter_checks.check_hashes(release.path, release.manifest)
    if release.is_base:
        if release.manifest.get("base") is not True or release.manifest["files"]:
            raise refuse(f"{release.path}: adapters/base must stand for no adapter", "remove it; it is made again")
        return release
    if not release.name.endswith(f"-{_signature(release.path)}"):
        raise refuse(f"{release.path / MANIFEST} was changed after it was signed (the name holds its hash)")
    adapter_checks.check_adapter(release.path, release.manifest)
    return release


def refused(release: Release) -> dict | None:
    """Who refused the release and when (`by`, `timestamp`); None where nobody did."""
    path = release.path / REFUSED
    return adapter_checks.read_json(path) if path.exists() else None


def releases() -> list[Release]:
    """All releases, newest first; base comes last."""
    folder = adapters_folder()
    found = [Release(p) for p in folder.glob("[!.]*") if p.is_dir() and not p.is_symlink()] if folder.exists() else []
    return sorted(found, key=lambda release: (not release.is_base, release.name), reverse=True)


def stamped(kind: str) -> str:
    """A free link name `<kind>_<utc>`; names sort by time, and two in one second differ."""
    while True:
        name = f"{kind}_{datetime.now(UTC).strftime(_STAMP + '.%fZ')}"
        if not os.path.lexists(get_settings().loras / name):
            return name
        time.sleep(1e-6)


def point(link: str, release: Release) -> None:
    """Make loras/<link> point to the release: relative, straight, atomic and durable.

    Links made by hand that lead through this one go on meaning what they mean now. Raises CouncilError where the name
    is not one of loras/'s links, or a real folder stands in its place.
    """
    loras = get_settings().loras
    if not _LINK_NAME.fullmatch(link):
        raise CouncilError(f"{link}: links are latest, current and {'_*, '.join(KINDS)}_*")
    _part_from(link)
    temporary = loras / f"{_TEMPORARY_LINK}{secrets.token_hex(8)}"
    os.symlink(f"adapters/{release.name}", temporary)
    try:
        os.replace(temporary, loras / link)
    except OSError as error:
        temporary.unlink()
        raise CouncilError(
            f"{loras / link}: {error.strerror}; a link belongs there: move away what stands there"
        ) from None
    sync_folder(loras)


def _part_from(link: str) -> None:
    """Let current and latest, where they lead through another link that is about to move, stay where they are."""
    loras = get_settings().loras
    for name in {"current", "latest"} - {link}:
        if not (loras / name).is_symlink() or os.readlink(loras / name) not in (link, f"./{link}", str(loras / link)):
            continue
        meant = target(name) or ensure_base()
        log.warning("warning: loras/%s leads through loras/%s; it points to %s from now on", name, link, meant.name)
        point(name, meant)


def target(link: str) -> Release | None:
    """The release that loras/<link> points to; None where there is no link, or none that leads to a release."""
    try:
        return resolve(get_settings().loras.resolve() / link)
    except CouncilError:
        return None


def links(kind: str) -> dict[str, Release | None]:
    """The links `<kind>_*` and their releases (None where the release is gone), newest first."""
    found = (path.name for path in get_settings().loras.glob(f"{kind}_*") if path.is_symlink())
    return {name: target(name) for name in sorted(found, reverse=True)}


def drop_links(kind: str, release: Release) -> None:
    """Remove the links `<kind>_*` that point to the release."""
    for name, pointed in links(kind).items():
        if pointed == release:
            (get_settings().loras / name).unlink()


def rollback_targets() -> list[Release]:
    """The releases to go back to: good in service and not serving now, the last in service first, base last.

    Good in service is what was current before a deployment, or was promoted by one, and was never taken out or refused.
    """
    served: dict[Release, float] = {}
    for name, release in links("rollback").items():
        if release:
            served.setdefault(release, _stamp_seconds(name))
    for release in releases():
        served[release] = max(served.get(release, 0), promoted_at(release))
    never = {*links("failed").values(), target("current"), *_taken_out()}
    served = {release: when for release, when in served.items() if when and not refused(release)}
    good = [release for release in served if not release.is_base and release not in never]
    good.sort(key=lambda release: (served[release], release.name), reverse=True)
    base_serves = target("current") in (None, ensure_base()) and not dangling("current")
    return good if base_serves else [*good, ensure_base()]


def _taken_out() -> list[Release]:
    """The releases that a rollback took out and no later deployment put back, by the ledger, where it can be read."""
    out: dict[str, bool] = {}
    try:
        for event in ledger.read():
            if event["event"] in ("deployment", "rollback"):
                out[event["release"]] = event["event"] == "rollback"
    except CouncilError as error:
        log.warning("warning: only the links tell which releases failed: %s", error)
    return [Release(adapters_folder() / name) for name, bad in out.items() if bad]


def dangling(link: str) -> bool:
    """Whether loras/<link> is there but leads to no release."""
    return target(link) is None and (get_settings().loras / link).is_symlink()


def _stamp_seconds(link: str) -> float:
    """Unix time in a link's name; the link's own where the name follows another pattern."""
    try:
        when = datetime.strptime(link.partition("_")[2], _STAMP + ".%fZ")
        return when.replace(tzinfo=UTC).timestamp()
    except ValueError:
        return (get_settings().loras / link).lstat().st_mtime


def promoted_at(release: Release) -> float:
    """When the release was promoted, unix seconds; 0 where it never was."""
    summary = _summary(release)
    return float(summary["timings"]["finished"]) if summary.get("verdict") == "promoted" else 0


def _summary(release: Release) -> dict:
    path = release.path / "deployment_summary.json"
    return adapter_checks.read_json(path) if path.exists() else {}


def prune(keep: int) -> list[str]:
    """Remove all but the `keep` newest releases besides those in use, and what crashes left; return what went.

    Never goes: what current and latest point to, base, the newest rollback target, the newest that was held, or a
    deployment under way.
    Links to a removed release go first; of several links of one kind to one release the newest stays.
    """
    in_use = {target("current"), target("latest"), *rollback_targets()[:1], *_under_way(), *_held()[:1]}
    old = [release for release in releases() if release not in in_use and not release.is_base][keep:]
    return [*remove(old), *_prune_leftovers()]


def remove(old: list[Release]) -> list[str]:
    """Remove these releases, links to them first; return what went. Never goes: base, what serves or is deployed."""
    never = {target("current"), *_under_way()}
    old = [release for release in old if release not in never and not release.is_base]
    gone = _prune_links(old)
    if target("latest") in old:
        (get_settings().loras / "latest").unlink()
    sync_folder(get_settings().loras)
    for release in old:
        grave = release.path.with_name(f"{_STAGING}{release.name}")  # one rename: no reader meets half a release,
        os.rename(release.path, grave)
        sync_folder(adapters_folder())  # nor does one after a power cut
        shutil.rmtree(grave)
        gone.append(f"adapters/{release.name}")
    return gone


def interrupted() -> dict | None:
    """The names of the candidate and the previous release of a deployment that has no verdict yet, or None."""
    journal = get_settings().loras / JOURNAL
    if not journal.exists():
        return None
    left = json.loads(journal.read_text(encoding="utf-8"))
    promoted = promoted_at(Release(adapters_folder() / left["candidate"]))
    return None if promoted >= left.get("started", 0) > 0 else left


def _held() -> list[Release]:
    """The releases whose last deployment was held and that nobody refused, newest first."""
    return [release for release in releases() if held(release) and not refused(release)]


def held(release: Release) -> bool:
    """Whether the release's last deployment was held."""
    return _summary(release).get("verdict") == "hold"


def waiting() -> Release | None:
    """What was trained last, where it is still to be tried: it is on hold, or its night was cut off before."""
    latest = target("latest")
    if latest in (None, target("current"), *links("failed").values()) or latest.is_base or refused(latest):
        return None
    judged = _judgement(latest).get("end") in ("refuse", "inconclusive")
    return latest if held(latest) or not (_summary(latest) or judged) else None


def promising() -> list[Release]:
    """The releases after the serving one that are neither surely better nor surely worse than it, newest first.

    They are on hold, or the gate saw too little between them: which side of zero that fell on is noise. A training may
    go on from one, so that nights add up; not where it, or one that it goes on from, was taken out or refused.
    """
    serving, failed = target("current"), {*links("failed").values()}
    since = serving.created if serving else math.inf
    newer = sorted((r for r in releases() if r.created > since), key=attrgetter("created"), reverse=True)
    sound = [release for release in newer if not any(r in failed or refused(r) for r in _line(release))]
    return [release for release in sound if _undecided(release)]


def _line(release: Release) -> Iterator[Release]:
    """The release and those that it goes on from, as far as they are kept."""
    while release.path.exists():
        yield release
        if not (parent := release.manifest.get("parent")):
            return
        release = Release(release.path.parent / parent)


def _undecided(release: Release) -> bool:
    return held(release) or _judgement(release).get("end") == "inconclusive"


def _judgement(release: Release) -> dict:
    """What the gate found; {} where it was not there yet."""
    path = release.path / "gate_summary.json"
    return adapter_checks.read_json(path) if path.exists() else {}


def _under_way() -> list[Release]:
    names = interrupted() or {}
    return [Release(adapters_folder() / names[key]) for key in ("candidate", "previous") if key in names]


def _prune_links(old: list[Release]) -> list[str]:
    gone = []
    for kind in KINDS:
        kept: set[Release | None] = {None, *old}
        for name, release in links(kind).items():
            if release in kept:
                (get_settings().loras / name).unlink()
                gone.append(name)
            kept.add(release)
    return gone


def _prune_leftovers() -> list[str]:
    loras, gone = get_settings().loras, []
    for path in [*loras.glob(f"{_STAGING}*"), *loras.glob(f"adapters/{_STAGING}*")]:
        touched = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
        if time.time() - touched > STALE_SECONDS:
            shutil.rmtree(path)
            gone.append(path.name)
    for path in loras.glob(f"{_TEMPORARY_LINK}*"):
        if time.time() - path.lstat().st_mtime > STALE_SECONDS:
            path.unlink()
            gone.append(path.name)
    return gone


def _print_list() -> None:
    marks: dict[Release, list[str]] = {}
    for name in ("current", "latest", *(name for kind in KINDS for name in links(kind))):
        if found := target(name):
            marks.setdefault(found, []).append(name)
    for release in releases():
        print(f"{release.name:28}", *marks.get(release, []))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("validate", help="check a release").add_argument("path")
    commands.add_parser("list", help="releases, newest first, and the links to each")
    commands.add_parser("waiting", help="print the release of loras/latest where it is on hold, or was never tried")
    commands.add_parser("prune", help="remove old releases (KEEP_RELEASES stay besides those in use)")
    arguments = parser.parse_args()
    if arguments.command == "validate":
        log.info("%s is valid", validate(arguments.path).name)
    elif arguments.command == "list":
        _print_list()
    elif arguments.command == "waiting":
        print(found.name if (found := waiting()) else "")
    else:
        gone = prune(get_settings().keep_releases)
        log.info("removed %s", ", ".join(gone) or "nothing: no release is old")
    return DONE


if __name__ == "__main__":
    run_command(main)
