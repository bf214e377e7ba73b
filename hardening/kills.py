"""Commands that are killed at random, and run again until they have done their work.

    python hardening/kills.py COMMAND [--kills 100] [--seed N]

A try is a folder of its own in which one command is started, killed at a random moment (SIGKILL,
SIGTERM or SIGINT) or left without room for what it writes, started again, perhaps killed again, and
at last left alone. After each time no file may be torn, and but for SIGKILL, which no program
hears, nothing half-done may lie about; at the end every file is what an undisturbed run writes,
once, and no hidden file, temporary file or process is left.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
NO_ROOM = "no room"
"""The fourth way to fail: files may not grow beyond some bytes, as on a disk that is full."""
ENDS = {signal.SIGTERM: 143, signal.SIGINT: 130}
MOST_KILLS = 2
WAIT_SECONDS = 300.0
MARK = "PIXTRAL_MLX_KILLS"
"""The variable by which the processes of a try are found."""

MLX = "mlx"
"""The folder of MLX for functions that it compiles, which is everybody's."""

ROOT = Path(__file__).resolve().parent.parent
Digests = dict[str, str]


def digest(file: Path) -> str:
    """Of all that a file holds."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def without_times(file: Path) -> str:
    """Of a JSON file, but for what is measured."""
    measured = ("seconds", "step_seconds", "peak_bytes", "steps", "samples")
    found = {k: v for k, v in json.loads(file.read_text()).items() if k not in measured}
    return json.dumps(found, sort_keys=True)


def rows(file: Path) -> str:
    """Of answers in lines: a row for each source, in whatever order, and a torn last line left out.

    Raises:
        ValueError: something is there twice.
    """
    found = [json.loads(line) for line in file.read_text().splitlines(keepends=True)
             if line.endswith("\n")]  # fmt: skip
    names = Counter(map(source, found))
    if names and max(names.values()) > 1:
        raise ValueError(f"repeated: {names.most_common(1)}")
    return json.dumps(sorted(found, key=source), sort_keys=True)


def source(row: dict[str, str]) -> str:
    """What a row of `batch` or `extract` is about."""
    return row.get("source") or row["file"]


@dataclass(frozen=True)
class Job:
    """A command that writes.

    Arguments:
        words: after `pixtral-mlx`.
        prepare: puts what it reads into a folder.
        outputs: the names that it writes; of a folder all files are looked at.
        look: {ending of a name: what it must be the same in}; `digest` for all others.
        grows: outputs that a kill may leave unfinished, to be gone on with.
        again: further words where an earlier run has left something.
    """

    words: tuple[str, ...]
    prepare: Callable[[Path], None]
    outputs: tuple[str, ...]
    look: dict[str, Callable[[Path], str]]
    grows: tuple[str, ...] = ()
    again: tuple[str, ...] = ()


def nothing(folder: Path) -> None:
    """The command needs no file."""


def scenes(folder: Path) -> None:
    """Pictures of scenes, and one for `explain`."""
    from pixtral_mlx.mini import scene

    (folder / "scans").mkdir()
    for number in range(8):
        scene(number).image.save(folder / "scans" / f"{number}.png")
    scene(3).image.save(folder / "photo.png")


def documents(folder: Path) -> None:
    """Pictures of scenes, and a schema for `extract`."""
    scenes(folder)
    asked = {"title": "How many rows are there?", "type": "integer"}
    schema = {"type": "object", "properties": {"rows": asked}, "required": ["rows"]}
    (folder / "schema.json").write_text(json.dumps(schema))


def lessons(folder: Path) -> None:
    """Rows to learn from."""
    sys.path.append(str(ROOT / "tests"))
    from tuning_rows import write_rows

    write_rows(folder / "rows", range(12))


def adapter(folder: Path) -> None:
    """pixtral-mini's own adapter, for `fuse`."""
    from pixtral_mlx.mini import CHECKPOINT

    shutil.copytree(CHECKPOINT.parent / "adapters" / "json", folder / "json")


MODEL = str(ROOT / "pixtral_mlx" / "mini" / "checkpoint")
JOBS = {
    "convert": Job(("convert", MODEL, "4bit"), nothing, ("4bit",), {}),
    "batch": Job(
        ("batch", "scans", "-p", "How many rows are there?", "-o", "rows.jsonl",
         "--batch-size", "2"),
        scenes, ("rows.jsonl",), {".jsonl": rows}, grows=("rows.jsonl",),
    ),
    "extract": Job(
        ("extract", "scans", "--schema", "schema.json", "-o", "rows.jsonl", "--one-by-one"),
        documents, ("rows.jsonl",), {".jsonl": rows}, grows=("rows.jsonl",),
    ),
    "demo": Job(("demo", "--keep", "4bit", "-o", "demo.png"), nothing, ("demo.png", "4bit"), {}),
    "explain": Job(
        ("explain", "photo.png", "How many rows are there?", "-o", "why.png", "--save",
         "why.safetensors"),
        scenes, ("why.png", "why.safetensors"), {},
    ),
    "tune": Job(
        ("tune", "--data", "rows", "-o", "own", "--iters", "6", "--batch-size", "2",
         "--steps-per-eval", "3", "--save-every", "2", "--warmup", "1"),
        lessons, ("own",),
        {".json": without_times, "state.safetensors": lambda _: "", ".png": lambda _: ""},
        grows=("own",), again=("--resume",),
    ),
    "fuse": Job(
        ("fuse", "--model", MODEL, "--adapter-path", "json", "fused"), adapter, ("fused",), {}
    ),
    "live": Job(("live", "-o", "page.html"), nothing, ("page.html",), {}),
}  # fmt: skip
"""A command more is an entry more."""


class Try:
    """One folder in which a command is run until it is done."""

    def __init__(self, job: Job, number: int):
        self.job, self.mark = job, f"{os.getpid()}-{number}"
        self._home = Path(tempfile.mkdtemp(prefix="kills-"))
        self.folder, self.temporary = self._home / "here", self._home / "tmp"
        for folder in (self.folder, self.temporary, self._home / "settings"):
            folder.mkdir()
        shared = Path(tempfile.gettempdir(), MLX)  # else each try would wait for its compiler
        shared.mkdir(exist_ok=True)
        (self.temporary / MLX).symlink_to(shared)
        job.prepare(self.folder)
        self.given = {path.name for path in self.folder.iterdir()}

    def remove(self) -> None:
        """Forget it."""
        shutil.rmtree(self._home, ignore_errors=True)

    def start(self, *more: str, room: int = resource.RLIM_INFINITY) -> subprocess.Popen:
        """Run the command, whose files may have so many bytes each."""
        environment = {
            **os.environ,
            MARK: self.mark,
            "TMPDIR": str(self.temporary),
            "XDG_CONFIG_HOME": str(self._home / "settings"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "widgets")]),
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.Popen(
            [sys.executable, "-m", "pixtral_mlx", *self.job.words, *more],
            cwd=self.folder, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        )  # fmt: skip

    def found(self) -> Digests:
        """What there is of the outputs, by names in the folder."""
        files = []
        for name in self.job.outputs:
            path = self.folder / name
            files += [path] if path.is_file() else sorted(path.rglob("*"))
        seen = {}
        for file in filter(Path.is_file, files):
            if ".partial-" not in str(file.relative_to(self.folder)):
                ways = [way for end, way in self.job.look.items() if file.name.endswith(end)]
                seen[str(file.relative_to(self.folder))] = (ways or [digest])[-1](file)
        return seen

    def left_behind(self) -> list[str]:
        """Hidden and temporary files, and files that nobody asked for."""
        known = self.given | set(self.job.outputs)
        hidden = [str(path) for path in self.folder.rglob("*") if ".partial-" in path.name]
        other = [path.name for path in self.folder.iterdir() if path.name not in known]
        temporary = [path.name for path in self.temporary.iterdir() if path.name != MLX]
        return sorted({*hidden, *other, *temporary})

    def processes(self) -> list[str]:
        """Processes of this try that are still there a moment later; where /proc tells."""
        for _ in range(40):
            found = []
            for place in Path("/proc").glob("[0-9]*"):
                try:
                    held = (place / "environ").read_bytes()
                    state = (place / "stat").read_text().rpartition(")")[2].split()[0]
                except OSError:
                    continue
                if f"{MARK}={self.mark}".encode() in held and state != "Z":
                    found.append((place / "cmdline").read_bytes().decode(errors="replace")[-80:])
            if not found:
                return []
            time.sleep(0.1)
        return found

    def problems(
        self, expected: Digests, *, heard: bool, whole: bool, before: Collection[str] = ()
    ) -> list[str]:
        """What is wrong with what there is.

        Arguments:
            expected: of an undisturbed run.
            heard: the program could tidy up.
            whole: everything must be there.
            before: left behind by a run before, which this one had not come to.
        """
        try:
            found = self.found()
        except (json.JSONDecodeError, OSError) as error:
            return [f"torn: {error}"]
        except ValueError as error:
            return [str(error)]
        grows = () if whole else self.job.grows
        torn = [
            name for name, seen in found.items()
            if seen != expected.get(name) and not name.startswith(grows or "\0")
        ]  # fmt: skip
        wrong = [f"torn: {name}" for name in torn]
        if whole:
            wrong += [f"lost: {name}" for name in expected if name not in found]
        if heard:
            wrong += [f"left behind: {name}" for name in self.left_behind() if name not in before]
        return wrong + [f"orphaned: {name}" for name in self.processes()]


@dataclass(frozen=True)
class Undisturbed:
    """What a run writes that nobody kills, how many bytes the largest file has, and how many
    seconds it takes."""

    written: Digests
    largest: int
    seconds: float


def undisturbed(job: Job) -> Undisturbed:
    """Leave a run alone."""
    one = Try(job, -1)
    try:
        start = time.perf_counter()
        said = (process := one.start()).communicate(timeout=WAIT_SECONDS)
        seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"{' '.join(job.words)}: status {process.returncode}: {said[1]}")
        written = one.found()
        wrong = one.problems(written, heard=True, whole=True)
        if wrong:
            sys.exit("; ".join(wrong))
        largest = max((one.folder / name).stat().st_size for name in written)
        return Undisturbed(written, largest, seconds)
    finally:
        one.remove()


def disturbed(one: Try, alone: Undisturbed, chance: random.Random) -> list[str]:
    """Disturb a run in one of four ways, and look at what it leaves."""
    way, before = chance.choice((*SIGNALS, NO_ROOM)), one.left_behind()
    if way == NO_ROOM:
        process = one.start(*more_words(one), room=chance.randrange(alone.largest))
        ends = (0, 1)
    else:
        process = one.start(*more_words(one))
        time.sleep(chance.random() * alone.seconds * 1.05)
        process.send_signal(way)
        ends = (0, ENDS.get(way, -way))
    try:
        _, said = process.communicate(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return [f"{name_of(way)}: it goes on"]
    status = process.returncode
    # Before Python has begun with our own words it ends as every program of Python does.
    early = not one.found() and status in (-signal.SIGTERM, -signal.SIGINT)
    heard = way != signal.SIGKILL
    wrong = one.problems(alone.written, heard=heard, whole=False, before=before)
    if "Traceback" in said:
        wrong.append(repr(said[-400:]))
    if status not in ends and not early and not done(one):
        wrong.append(f"status {status}: {said[-300:]!r}")
    return [f"{name_of(way)}: {each}" for each in wrong]


def name_of(way: signal.Signals | str) -> str:
    """For people."""
    return way if isinstance(way, str) else way.name


def done(one: Try) -> bool:
    """Whether an earlier run has finished, so that a further one is refused."""
    return all((one.folder / name).exists() for name in one.job.outputs)


def more_words(one: Try) -> tuple[str, ...]:
    """What goes on with what an earlier run left."""
    state = [one.folder / name / "state.safetensors" for name in one.job.outputs]
    return one.job.again if any(file.is_file() for file in state) else ()


def attempt(job: Job, number: int, alone: Undisturbed, seed: int) -> tuple[int, list[str]]:
    """One try: how often it was disturbed, and what went wrong."""
    chance, one = random.Random(f"{seed} {number}"), Try(job, number)
    times, wrong = chance.randint(1, MOST_KILLS), []
    try:
        for _ in range(times):
            wrong += disturbed(one, alone, chance)
        was_done = done(one) and not job.grows
        process = one.start(*more_words(one))
        _, said = process.communicate(timeout=WAIT_SECONDS)
        refused = was_done and "already exists" in said
        if process.returncode and not refused:
            wrong.append(f"at last: status {process.returncode}: {said[-300:]!r}")
        return times, wrong + one.problems(alone.written, heard=not refused, whole=True)
    finally:
        one.remove()


def main() -> int:
    """Try, and print a line of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("command", choices=JOBS)
    parser.add_argument("--kills", type=int, default=100, help="as many, or one more (100)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--only", type=int, metavar="N", help="repeat try number N")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    job, only, failures = JOBS[arguments.command], arguments.only, 0
    alone, number, kills = undisturbed(job), only or 0, 0
    while kills < arguments.kills:
        times, wrong = attempt(job, number, alone, arguments.seed)
        kills += times
        failures += bool(wrong)
        if wrong:
            print(f"try {number}: {'; '.join(wrong)}", flush=True)
        number += 1
        if number % 10 == 0:
            print(f"{kills} kills, {failures} failures so far", flush=True)
        if only is not None:
            break
    print(
        f"{arguments.command}: {failures} failures in {kills} kills: nothing else torn, lost, "
        "repeated or left behind"
    )
    return int(bool(failures))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
