"""What goes wrong in a night, what must come of it, and the healthy night after it."""

import fcntl
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta

from agent0 import ledger
from agent0.story import outcome
from tests.faults import outside
from tests.faults.place import Night, Place

LOUD, SILENT, EITHER = "one alert", "no alert", "one alert or none"
HOOKS = {
    "pre-flight": "preflight",
    "harvest": "harvest_failures",
    "training": "agent0.train",
    "gate": "agent0.gate",
    "deployment": "rollout",
    "validation": "validate",
    "cleanup": "night cleanup",  # not "cleanup" alone: the telling names each stage
    "telling": "night tell",
}
WORKING = [name for name in HOOKS if name != "telling"]
LIE = "REASONING: Everybody knows it.\nANSWER: It is 5.\nVOTE: 1\nSCORE: 10"


@dataclass(frozen=True)
class Fault:
    """`strike` makes a place faulty; the night must end with one of `codes`, and tell as `told` says."""

    strike: Callable[[Place, ExitStack], dict[str, str] | None]
    codes: tuple[int, ...]
    told: str = LOUD
    mend: Callable[[Place], None] = lambda place: None
    on_tmpfs: bool = False
    logged: bool = True  # its end stands in its own log and in the ledger


def _holds(lock: str) -> Callable:
    def strike(place: Place, stack: ExitStack) -> None:
        path = place.path / lock
        path.parent.mkdir(exist_ok=True)
        held = stack.enter_context(open(path, "a"))  # noqa: SIM115
        fcntl.flock(held, fcntl.LOCK_EX)

    return strike


def _hook(stage: str, script: str, **environment: str) -> Callable:
    def strike(place: Place, stack: ExitStack) -> dict[str, str]:
        place.hook(HOOKS[stage], script)
        return environment

    return strike


def _mood(stage: str, mood: str) -> Callable:
    return _hook(stage, f'echo "{mood}" >"$FAULTS/mood"')


def _restart(stage: str) -> Callable:
    """The server is away for two seconds."""
    script = 'echo drop >"$FAULTS/mood"; (sleep 2; rm -f "$FAULTS/mood") >/dev/null 2>&1 &'
    return _hook(stage, script)


def _write(name: str, text: str) -> Callable:
    def strike(place: Place, stack: ExitStack) -> None:
        path = place.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    return strike


def _remove(name: str) -> Callable:
    return lambda place: (place.path / name).unlink(missing_ok=True)


def _set(**environment: str) -> Callable:
    return lambda place, stack: environment


def _webhook(*statuses: int) -> Callable:
    def strike(place: Place, stack: ExitStack) -> None:
        place.receiver.statuses[:] = statuses

    return strike


def _without(tool: str) -> Callable:
    """A PATH with every tool but one."""

    def strike(place: Place, stack: ExitStack) -> dict[str, str]:
        folder = place.path.parent / "bin"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for source in ("/bin", "/usr/bin"):
            for name in set(os.listdir(source)) - {tool, *os.listdir(folder)}:
                (folder / name).symlink_to(f"{source}/{name}")
        return {"PATH": str(folder)}

    return strike


def _missed(days: int) -> Callable:
    def strike(place: Place, stack: ExitStack) -> None:
        day = date.today() - timedelta(1 + days)
        place.remember(day, 100 * days)
        place.days.append(day)
        place.use()
        done = (day - timedelta(1)).isoformat()  # from the day after, days are due
        ledger.append("harvest", date=done, complete=True)

    return strike


def _torn_ledger(place: Place, stack: ExitStack) -> None:
    path = place.path / "logs/ledger.jsonl"
    path.parent.mkdir(exist_ok=True)
    with open(path, "a", encoding="utf-8") as out:
        out.write("{\n")


def _mended_ledger(place: Place) -> None:
    path = place.path / "logs/ledger.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line != "{\n"))


def _corrupt_page(place: Place, stack: ExitStack) -> None:
    file = place.path / "memory/memory.db"
    shutil.copy(file, place.path.parent / "backup.db")
    content = bytearray(file.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 512] = os.urandom(512)
    file.write_bytes(content)


def _restore(place: Place) -> None:
    shutil.move(place.path.parent / "backup.db", place.path / "memory/memory.db")


def _dangle(place: Place, stack: ExitStack) -> None:
    (place.path / "loras").mkdir(exist_ok=True)
    (place.path / "loras/current").symlink_to("adapters/20200101T000000Z-00000000")


def _folder_for_link(link: str) -> Callable:
    def strike(place: Place, stack: ExitStack) -> None:
        (place.path / "loras" / link / "mine").mkdir(parents=True)

    return strike


def _move_away(link: str) -> Callable:
    return lambda place: shutil.rmtree(place.path / "loras" / link)


def _kill_all(stage: str) -> Callable:
    """The night's process group first, then its own, if it has one: a training is a session for itself."""
    night = 'night=$(sed "s/.*pid \\([0-9]*\\).*/\\1/" "$COUNCIL_HOME/logs/.night.lock")'
    return _hook(stage, f'{night}; for pid in $night $$; do kill -KILL -- -$(ps -o pgid= "$pid" | tr -d " "); done')


def _filled(stage: str) -> Callable:
    return _hook(stage, 'dd if=/dev/zero of="$COUNCIL_HOME/filler" bs=4k 2>/dev/null || :')


def _read_only(stage: str) -> Callable:
    return _hook(stage, 'mount -o remount,ro "$COUNCIL_HOME"')


def _writable(place: Place) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(place.path)], check=True)


ANY = (0, 1, 10, 20, 30)
FAULTS: dict[str, Fault] = {
    "nothing": Fault(_set(), (0,)),
    "another night runs": Fault(_holds("logs/.night.lock"), (75,), SILENT, logged=False),
    "a training by hand runs": Fault(_holds("loras/.train.lock"), (75,)),
    "a deployment by hand runs": Fault(_holds("loras/.lock"), (75,)),
    "a bad setting": Fault(_write(".env", "BATCH_SIZE=many\n"), (2,), mend=_remove(".env")),
    "an unknown setting": Fault(_set(COUNCIL_URLS="x"), (2,)),
    "too little disk": Fault(_set(MIN_FREE_DISK_GB="1000000"), (1,)),
    "server hung in pre-flight": Fault(_mood("pre-flight", "hang"), (1,)),
    "webhook 500": Fault(_webhook(500, 500, 500), (0,)),
    "webhook 404": Fault(_webhook(404), (0,)),
    "webhook busy once": Fault(_webhook(429), (0,)),
    "webhook down": Fault(_set(NOTIFICATION_WEBHOOK="http://127.0.0.1:9/x"), (0,), SILENT),
    "webhook hangs": Fault(outside.silence(NOTIFICATION_WEBHOOK="{url}/x"), (0,), SILENT),
    "endpoint hangs": Fault(
        outside.silence(COUNCIL_ENDPOINTS="{url}/v1|m", COUNCIL_TIMEOUT="0.2"),
        (0,),
    ),
    "endpoints lie": Fault(outside.endpoints_say(LIE), (0,)),
    "endpoints babble": Fault(outside.endpoints_say("Certainly! ```\0 {{{"), (0,)),
    "endpoint down": Fault(_set(COUNCIL_ENDPOINTS="http://127.0.0.1:9/v1|m", COUNCIL_TIMEOUT="0.2"), (0,)),
    "trainer killed (out of memory)": Fault(_hook("training", "[[ $* != *agent0.train* ]] || kill -KILL $$"), (137,)),
    "trainer crashes": Fault(_hook("training", "[[ $* != *agent0.train* ]] || exit 1"), (1,)),
    "trainer stuck": Fault(
        _hook("training", "[[ $* != *agent0.train* ]] || export STUCK=1", TRAIN_MINUTES="0.015"), (142,)
    ),
    "corrupt line in the pool": Fault(
        _write("training_data/harvest_20200101.jsonl", '{"instruction": "x"\n'),
        (1,),
        mend=_remove("training_data/harvest_20200101.jsonl"),
    ),
    "corrupt line in the ledger": Fault(_torn_ledger, ANY, mend=_mended_ledger),
    "corrupt database page": Fault(_corrupt_page, (1,), mend=_restore),
    "database emptied": Fault(
        lambda place, stack: (_corrupt_page(place, stack), (place.path / "memory/memory.db").write_bytes(b""))[0],
        (1,),
        mend=_restore,
    ),
    "index of the memory truncated": Fault(outside.index_truncated, (0,), mend=outside.index_works),
    "current leads elsewhere": Fault(outside.linked("current", "/tmp"), (0, 1, 20, 30), mend=outside.unlink("current")),
    "current leads through latest": Fault(outside.linked("current", "latest"), (0, 20, 30)),
    "latest leads elsewhere": Fault(outside.linked("latest", "/tmp"), (0, 1), mend=outside.unlink("latest")),
    "current dangles": Fault(_dangle, (0,)),
    "a folder where current belongs": Fault(_folder_for_link("current"), (1, 20, 30), mend=_move_away("current")),
    "a folder where latest belongs": Fault(_folder_for_link("latest"), (1,), mend=_move_away("latest")),
    "no folder for training data": Fault(_write("training_data", "mine"), (1,), mend=_remove("training_data")),
    **{f"{days} nights missed": Fault(_missed(days), (0,)) for days in (1, 3, 7)},
    **{
        f"time zone {zone}": Fault(_set(TZ=zone), ANY)
        for zone in ("Pacific/Kiritimati", "Pacific/Niue", "Asia/Kolkata")
    },
    "summer time begins": Fault(outside.clocks_change("begins"), (0, 10)),  # 10: it is another day there
    "summer time ends": Fault(outside.clocks_change("ends"), (0, 10)),
    **{
        f"clock jumps {by} at {s}": Fault(outside.clock_jumps(by, HOOKS[s]), ANY)
        for by in ("+26h", "-26h", "+90m", "-90m")
        for s in WORKING
    },
    "server restarts in the deployment": Fault(_restart("deployment"), ANY),
    "server hangs from deployment on": Fault(_mood("deployment", "hang"), ANY),
    **{
        f"without {tool}": Fault(_without(tool), (0, 1, 127), EITHER, logged=False) for tool in ("nice", "flock", "awk")
    },
    **{f"without {tool}": Fault(_without(tool), (0,)) for tool in ("logger", "git", "curl")},
    **{f"server answers 500 from {s} on": Fault(_mood(s, "out of memory"), ANY) for s in WORKING},
    **{f"server drops requests from {s} on": Fault(_mood(s, "drop"), ANY) for s in WORKING},
    **{f"{s} fails": Fault(_hook(s, "exit 1"), (1,)) for s in WORKING},
    **{f"{s} is killed": Fault(_hook(s, "kill -KILL $$"), (1, 137)) for s in WORKING},
    **{
        f"SIGTERM at {s}": Fault(
            _hook(s, "kill -TERM $(sed 's/.*pid \\([0-9]*\\).*/\\1/' logs/.night.lock); sleep 5"), (143,)
        )
        for s in WORKING
    },
    **{f"reboot at {s}": Fault(_kill_all(s), (-9,), EITHER, logged=False) for s in HOOKS},
    **{
        f"disk full from {s} on": Fault(_filled(s), ANY, mend=_remove("filler"), on_tmpfs=True, logged=False)
        for s in WORKING
    },
    **{
        f"read-only from {s} on": Fault(_read_only(s), ANY, mend=_writable, on_tmpfs=True, logged=False)
        for s in WORKING
    },
}


def try_night(place: Place, names: list[str]) -> list[str]:
    """Run a night with these faults, mend them, run a healthy one; return what was not as it must be."""
    faults = [FAULTS[name] for name in names]
    with ExitStack() as stack:
        environment: dict[str, str] = {}
        for fault in faults:
            environment |= fault.strike(place, stack) or {}
        night = place.night(**environment)
    wrong = _judge(night, faults)
    for fault in sorted(faults, key=lambda fault: not fault.on_tmpfs):  # to mend something takes a disk
        fault.mend(place)
    place.mend()
    place.receiver.statuses.clear()
    serves = place.state()
    healthy = place.night()
    fine = (0, 10) if serves == "base" else (0, 10, 30)  # 30: no better than what this night has deployed
    wrong += [f"the next night: {line}" for line in _judge(healthy, [Fault(_set(), fine)])]
    if (state := place.state()) != place.engine.stable:
        wrong.append(f"current is {state}, the server answers with {place.engine.stable}")
    return wrong + [f"lost: {line}" for line in place.lost()]


def _judge(night: Night, faults: list[Fault]) -> list[str]:
    """One truthful state, log, exit code and alert."""
    wrong, codes = [], {code for fault in faults for code in fault.codes}
    if night.code not in codes | {1, 143} if len(faults) > 1 else night.code not in codes:
        wrong.append(f"exit {night.code}, not one of {sorted(codes)}")
    told = {fault.told for fault in faults}
    titles = [alert.get("title", "") for alert in night.alerts]
    if len(set(titles)) > 1 or (not titles and told == {LOUD}) or (titles and told == {SILENT}):
        wrong.append(f"alerts: {titles}")
    if titles and not titles[0].startswith(f"Night: {outcome(night.code)[0]}"):
        wrong.append(f"exit {night.code} is told as {titles[0]!r}")
    if all(fault.logged for fault in faults):
        if f"nightly_improvement.sh: exit {night.code}\n" not in night.log:
            wrong.append(f"the log does not say exit {night.code}")
        if not night.events or night.events[-1]["exit_code"] != night.code:
            wrong.append("the ledger's last night is another one")
    return wrong


def draw(number: int, on_tmpfs: bool) -> list[str]:
    """The faults of night `number`: each alone first, then two of them at random."""
    names = [name for name, fault in FAULTS.items() if on_tmpfs or not fault.on_tmpfs]
    if number < len(names):
        return [names[number]]
    one, other = random.Random(number).sample([name for name in names if "database" not in name], 2)
    return [one] if "current" in one and "current" in other else [one, other]  # one link is broken in one way
