"""Random faults over all commands that train: each is given again afterwards, and must leave what an undisturbed one does.

    python benchmarks/chaos.py --faults 100 --seed 0

A fault is SIGKILL or SIGTERM of the main process, of a rank, of a process that reads data or of one that carries out an engine's
run; a disk that is full (a small tmpfs, filled to its last byte); or a folder made read-only. It hits at a random moment of
training, or sometimes while the command starts. The command must then end within 30 seconds, or go on by itself where an
engine gives a run out again, and never show a traceback. The fault is undone, and the same command given again.

- hung: it did not end in time, or left processes behind;
- lost: an epoch that was kept is trained again, or the second command refuses;
- unequal: a file is left half-written, or weights, optimizers' states, results, metrics or tables are not those
  of an undisturbed command, bit for bit.

Linux alone: processes are found in ``/proc``. A full disk needs a mount, for which ``unshare`` makes a place, also without root.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos_processes import MARK, RANK, RUN, Running, name_of, words_of
from chaos_runs import DISK, Command, commands_in, differences, left_by, runs_in

SECONDS_TO_END = 30.0
EARLY = 0.15
"""So often a fault hits while the command starts."""
POLL_SECONDS = 0.02
MEGABYTES = 128
FOLDER, SPACE = "LDMI_CHAOS_FOLDER", "disk"
LEAKED = "ignore:resource_tracker:UserWarning"
"""What Python says of semaphores of processes that were killed."""
LAST_LINES = ("ldmi: ", "Stopped. ", "out/table.md")
"""What the last line of a command begins with that was ended, or whose cells have failed."""
BADLY = ("lost", "unequal", "hung", "unclear")


def begin(words: list[str]) -> int:
    """Call this script again where a file system of its own can be mounted, and where root, too, heeds a folder's mode."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SPACE).mkdir()
        mount = f"mount -t tmpfs -o size={MEGABYTES}m,mode=700 tmpfs {folder}/{SPACE}"
        bound = "setpriv --bounding-set=-dac_override,-dac_read_search"
        again = [sys.executable, __file__, *words]
        environment = {
            **os.environ,
            FOLDER: folder,
            MARK: Path(folder).name,
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": LEAKED,
        }
        for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
            inside = [*unshare, "sh", "-c", f'{mount} && exec {bound} "$@"', "chaos"]
            with suppress(FileNotFoundError):
                if not subprocess.run([*inside, "true"], stderr=subprocess.DEVNULL).returncode:
                    return subprocess.call([*inside, *again], env=environment)
        return subprocess.call(again, env=environment)


def skipped(place: Path) -> dict[str, str]:
    """Return the faults that cannot be made here, and why."""
    found = {}
    if not place.is_mount():
        found["full disk"] = "no file system of its own can be mounted"
    place.chmod(0o500)
    with suppress(PermissionError):
        (place / "file").touch()
        found["read-only folder"] = "this user may write to any folder"
    place.chmod(0o700)
    return found


class Chaos:
    """Draws faults, makes them, and counts what came of them.

    Args:
        seed: of the draw.
        folder: for data and logs.
        only: part of the names of the commands and faults that are drawn.
    """

    def __init__(self, seed: int, folder: Path, only: tuple[str, str]) -> None:
        self.chance, self.folder, self.place = random.Random(seed), folder, folder / SPACE
        self.commands = {name: each for name, each in commands_in(folder).items() if only[0] in name}
        self.skipped = skipped(self.place)
        self.faults = {
            name: [fault for fault in each.faults if fault not in self.skipped and only[1] in fault]
            for name, each in self.commands.items()
        }
        self.commands = {name: each for name, each in self.commands.items() if self.faults[name]}
        self.counts = Counter[str]()
        self.made = 0

    def empty(self) -> Path:
        """Return an empty folder on the small disk."""
        shutil.rmtree(self.place / "work", ignore_errors=True)
        (self.place / "work").mkdir()
        self.made += 1
        return self.place / "work"

    def leave_alone(self, name: str, command: Command) -> None:
        """Carry out a command undisturbed."""
        running = Running(command.words, self.empty(), self.folder / f"{self.made}.log")
        while running.is_running() and not running.has_begun():
            time.sleep(POLL_SECONDS)
        begun = time.monotonic()
        code = running.code(600)
        if code != 0:
            raise SystemExit(f"{name} fails undisturbed:\n{running.log.read_text()}")
        command.starts, command.trains = begun - running.begun, time.monotonic() - begun
        command.left = left_by(self.place / "work")
        print(
            f"{name}: undisturbed it starts in {command.starts:.1f} s and trains for {command.trains:.1f} s", flush=True
        )

    def hit(self) -> bool:
        """Draw a fault, and let it hit; return whether it did before the command had ended."""
        (name,) = self.chance.choices(list(self.commands), [each.weight for each in self.commands.values()])
        fault, early = self.chance.choice(self.faults[name]), self.chance.random() < EARLY
        share, command = self.chance.random(), self.commands[name]
        if not command.left:
            self.leave_alone(name, command)
        running = Running(command.words, self.empty(), self.folder / f"{self.made}.log")
        try:
            return self._hit(name, fault, early, share, running)
        finally:
            running.end()

    def _hit(self, name: str, fault: str, early: bool, share: float, running: Running) -> bool:
        command = self.commands[name]
        while not early and running.is_running() and not running.has_begun():
            time.sleep(POLL_SECONDS)
        running.code(share * (command.starts if early else command.trains))
        moment = time.monotonic()
        with make(fault, running, command) as made:
            if not made:
                return False
            limit = SECONDS_TO_END + (3 * (command.starts + command.trains) if command.spreads else 0)
            code = running.code(limit)
            while not command.outlived and running.processes() and time.monotonic() < moment + limit:
                time.sleep(POLL_SECONDS)
            took = time.monotonic() - moment
            outcome, remark = self._judge(running, command, code)
        if outcome == "ok" and code != 0:
            outcome, remark = self._again(command, running)
        self.counts[outcome] += 1
        when = f"{'start' if early else 'training'} +{moment - running.begun:.1f} s"
        ended = "did not end" if code is None else f"exit code {code}" if code else "went on by itself"
        tried = sum(self.counts.values())
        print(
            f"{tried:3}  {name}  |  {fault}  |  {when}  |  {ended}  |  {took:.1f} s  |  {outcome}{remark}", flush=True
        )
        if outcome != "ok":
            print(f"--- it printed\n{_printed(running)}---", flush=True)
        return True

    def _judge(self, running: Running, command: Command, code: int | None) -> tuple[str, str]:
        """Say how the disturbed command has ended."""
        left = [] if command.outlived else running.processes()
        if code is None or left:
            return "hung", ": " + "; ".join(name_of(pid) for pid in left or [running.pid])
        printed = _printed(running)
        last = running.log.read_text().strip().splitlines()[-1:]
        told = code in (0, -signal.SIGKILL, -signal.SIGTERM) or (last and last[0].startswith(LAST_LINES))
        if "Traceback" in printed or "Exception ignored" in printed or not told:
            return "unclear", ": a traceback, or no line that says why it ended"
        return self._compare(running, command) if code == 0 else ("ok", "")

    def _again(self, command: Command, disturbed: Running) -> tuple[str, str]:
        """Give the same command again, and say how it ends."""
        before = runs_in(disturbed.folder, disturbed.log)
        log = disturbed.log.with_suffix(".again.log")
        running = Running(command.words, disturbed.folder, log)
        try:
            code = running.code(SECONDS_TO_END + 3 * (command.starts + command.trains))
        finally:
            running.end()
        if code != 0:
            return ("hung" if code is None else "lost"), f": the second command ends with {code}\n{log.read_text()}"
        for name, (epochs, sections) in before.items():
            after = runs_in(disturbed.folder, log)[name][1][len(sections) if command.spreads else 0 :]
            if any(epoch < epochs for section in after for epoch in section):
                return "lost", f": {name} had {epochs} epochs, and trains {after} again"
        return self._compare(running, command)

    def _compare(self, running: Running, command: Command) -> tuple[str, str]:
        for name, (_, sections) in runs_in(running.folder, running.log).items():
            for one, other in itertools.pairwise(sections):
                if one and other and other[0] < one[-1]:
                    return "lost", f": {name} came to epoch {one[-1] + 1}, and began again with {other[0] + 1}"
        found = differences(command.left, left_by(running.folder))
        return ("unequal", f": {', '.join(found[:6])}") if found else ("ok", "")


@contextmanager
def make(fault: str, running: Running, command: Command) -> Iterator[bool]:
    """Make a fault, and undo it in the end; say whether the command was still running."""
    if fault in DISK:
        if not running.is_running():
            yield False
            return
        with full(running.folder) if fault == DISK[0] else read_only(running.folder):
            yield True
        return
    name, _, part = fault.partition(" of ")
    while running.is_running():
        pid = running.pid if part == "main process" else part_of(part, running)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[name])
                yield True
                return
        time.sleep(POLL_SECONDS)
    yield False


def part_of(part: str, running: Running) -> int | None:
    """Return the process that is to be hit; ``None`` where there is none at the moment."""
    for pid in running.processes():
        with suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if (part, name) == ("rank", RANK) or (part == "loader's worker" and name.startswith("pt_data_worker")):
                return pid
            if part == "engine's worker" and (name == RUN or "ldmi_lightning fit" in words_of(pid)):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                return parent if pid % 2 and parent in running.processes() else pid
    return None


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Fill the disk of a folder."""
    ballast = folder.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 512):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder, and those in it, read-only."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for each in folders:
        each.chmod(0o500)
    try:
        yield
    finally:
        for each in folders:
            each.chmod(0o700)


def _printed(running: Running) -> str:
    """Return what a command and its runs have printed."""
    logs = [running.log, *running.folder.rglob("fit.log")]
    return "".join(f"[{log.name}]\n{log.read_text(errors='replace')}" for log in logs)


def main() -> int:
    """Let faults hit, and print what came of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", type=int, default=100, help="number of faults (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--command", default="", help="part of the names of the commands that are drawn")
    parser.add_argument("--fault", default="", help="part of the names of the faults that are drawn")
    options = parser.parse_args()
    if FOLDER not in os.environ:
        return begin(sys.argv[1:])
    chaos = Chaos(options.seed, Path(os.environ[FOLDER]), (options.command, options.fault))
    for fault, why in chaos.skipped.items():
        print(f"{fault}: left out, since {why}", flush=True)
    begun = time.monotonic()
    while sum(chaos.counts.values()) < options.faults:
        chaos.hit()
    counts = chaos.counts
    print(f"\nunclear {counts['unclear']}, {(time.monotonic() - begun) / 60:.0f} minutes")
    print(f"tried {sum(counts.values())}, lost {counts['lost']}, unequal {counts['unequal']}, hung {counts['hung']}")
    return int(any(counts[each] for each in BADLY))


if __name__ == "__main__":
    sys.exit(main())
