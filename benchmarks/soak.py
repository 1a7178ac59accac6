"""A line under load for minutes or days, with everything that goes wrong on a line going wrong on purpose.

A simulated web runs below `reason-run inspect` faster than the model can follow (1.5 times) and slower (0.8 times),
while the camera is unplugged, blocks arrive corrupt, the model gives NaN and hangs for a moment, the process is stopped
and continued, the broker restarts, the disk fills up, the clock is stepped, the process is killed and started again.
Afterwards every part must have exactly one decision, and no defect of the web may have passed.

    python -m benchmarks.soak                                  # under 4 minutes; writes the result file and the page
    python -m benchmarks.soak --minutes 600 --out soak.json    # a night

Exit 1 where anything that must hold does not. Needs root (a small disk is mounted), mosquitto and faketime.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.soak_check import Verdict, broken, check
from benchmarks.tables import main as write_tables
from reason_runtime import load
from reason_runtime.environment import fingerprint
from reason_runtime.tiles import place_tiles
from tests.line.models import NAN, SLOW, line_bundle
from tests.line.ports import free_port

ROOT = Path(__file__).parents[1]
TILE_PX = 32
FRAME_LINES = 64
OVERLAP_LINES = 16
WIDTH_PX = 56
WEB_LINES = 48_000
BLOCK_LINES = 16
DEADLINE_MS = 250
TILE_OVERLAP_PX = 8
TILES = place_tiles((FRAME_LINES, WIDTH_PX), tile_px=TILE_PX, overlap_px=TILE_OVERLAP_PX)
FRAME_S = 0.008  # what a frame shall cost the model; turns of its loop are chosen so, whatever the machine
SLOW_CALL_S = 0.4  # of a tile whose inference is slow on purpose; the deadline is shorter
_FIRST_TRIPS = 50
CALM_SHARE = 0.55  # of the time for the load of 0.8, whose frames come more slowly
WARM_UP_FRAMES = 2_000  # until everything bounded is full: part ids that are remembered, latencies
LEAST_FRAMES = 3_000  # fewer say nothing about a slope
READY_S = 120.0
RESULTS = ROOT / "benchmarks" / "results" / "soak.json"
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass(slots=True)
class Watched:
    """What was seen of the process while it ran."""

    rss_kib: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def make_web(path: Path) -> list[tuple[int, int]]:
    """Write the web; gives first row and rows of its defects. Column 0 holds codes that trouble the model."""
    web = np.full((WEB_LINES, WIDTH_PX, 3), 128, np.uint8)
    web += np.random.default_rng(0).integers(0, 8, web.shape, dtype=np.uint8)
    spots = [(row, 3) for row in range(150, WEB_LINES, 331)]
    for row, rows in spots:
        web[row : row + rows, 40:44] = 255
    web[10_000:10_048, 0] = NAN
    web[30_000:30_016, 0] = SLOW
    np.save(path, web)
    return spots


def frame_seconds(bundle: Path) -> float:
    """What the model needs for one frame of tiles where nothing disturbs it: the fastest tenth of many."""
    detector = load(bundle, threads=1)
    images = np.full((1, TILE_PX, TILE_PX, 3), 128, np.uint8)
    samples = []
    for _ in range(100):
        started_s = time.perf_counter()
        for _ in TILES:
            detector.session.run(images)
        samples.append(time.perf_counter() - started_s)
    return float(np.quantile(samples, 0.1))


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 48 MiB that is easily filled."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Broker:
    """mosquitto, and a client that writes down what it hears."""

    def __init__(self, folder: Path) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        self.port = free_port()
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.heard: dict[str, set[str]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.on_connect = lambda client, *_: client.subscribe("soak/result", qos=1)
        self._client.on_message = lambda _client, _data, item: self._note(json.loads(item.payload))
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()

    def start(self) -> None:
        """Start mosquitto."""
        program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin") or "mosquitto"
        command = [program, "-c", str(self._configuration)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)

    def stop(self) -> None:
        """End mosquitto; the client connects again by itself."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the client and mosquitto."""
        self._client.disconnect()
        self._client.loop_stop()
        self.stop()

    def _note(self, line: dict[str, object]) -> None:
        self.heard.setdefault(str(line["part_id"]), set()).add(str(line["decision"]))


class StationProcess:
    """`reason-run inspect` on the simulated web."""

    def __init__(self, folder: Path, disk: Path, broker: Broker, *, lines_per_s: float) -> None:
        self._clock = folder / "clock"
        faults = "corrupt@40,unplug@60-90,black@120-124,corrupt@700-703"
        source = (
            f"linescan:{folder}/web.npy?lines_per_s={lines_per_s:.0f}&block_lines={BLOCK_LINES}&jitter=0.3"
            f"&faults={faults}&frame_lines={FRAME_LINES}&overlap_lines={OVERLAP_LINES}"
        )
        (folder / "station.toml").write_text(
            f'bundle = "{folder}/bundle"\nthreads = 1\ndeadline_ms = {DEADLINE_MS}\nqueue_frames = 8\n'
            f'journal = "{disk}/journal"\n'
            f'sinks = ["jsonl:{disk}/results.jsonl?max_mib=1&keep=40", "mqtt://127.0.0.1:{broker.port}/soak"]\n'
            f'[[camera]]\nname = "web"\nsource = "{source}"\nstall_s = 3\n[web]\noverlap_px = {TILE_OVERLAP_PX}\n'
        )
        self.watched = Watched()
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._disk = disk

    def start(self, *, own_clock: bool = False) -> None:
        """Start the process, if asked with a clock that can be stepped, and wait until it answers."""
        environment = dict(os.environ)
        if own_clock:
            self.step_clock(0)
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_CACHE_DURATION": "1",
                "DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        script = "from reason_runtime.commands import main; main()"
        command = [sys.executable, "-c", script, "inspect", "--config", str(self._folder / "station.toml")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        self.watched = Watched()
        known, until_s = self._written(), time.monotonic() + READY_S
        while self._written() == known:
            self._require_alive()
            if time.monotonic() > until_s:
                raise RuntimeError(f"the station answers nothing for {READY_S:g} s: {self.log()}")
            time.sleep(0.1)

    def _written(self) -> tuple[int, int]:
        files = list(self._disk.glob("results.jsonl*"))
        return len(files), sum(path.stat().st_size for path in files)

    def _require_alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the station ended on its own with {self._process.returncode}: {self.log()}")

    def log(self) -> str:
        """The end of what it said on stderr."""
        return (self._folder / "log").read_text()[-4000:]

    def step_clock(self, seconds: int) -> None:
        """The wall clock of the process jumps; the machine's stays."""
        self._clock.write_text(f"{seconds:+d}\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """Leave no process behind, whatever happened."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None
        return self._process.wait(60)

    def run_for(self, seconds: float) -> None:
        """Let it run, looking at it every second."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            time.sleep(min(1.0, max(0.0, until_s - time.monotonic())))
            self._require_alive()
            assert self._process is not None
            status = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
                if ":" in line
            )
            self.watched.rss_kib.append(int(status["VmRSS"].split()[0]))
            self.watched.threads.append(int(status["Threads"]))
            self.watched.descriptors.append(len(os.listdir(f"/proc/{self._process.pid}/fd")))
            self.watched.frames.append(self._latest())

    def _latest(self) -> int:
        """Number of the last frame in the result file."""
        path = self._disk / "results.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            lines = stream.read().split(b"\n")
        for line in reversed(lines):
            if line.startswith(b'{"kind": "result"'):
                try:
                    return int(json.loads(line)["frame"])
                except ValueError:
                    continue
        return 0


def soak(folder: Path, *, seconds: float) -> dict[str, object]:
    """Run both loads with all faults for about so long and check what came out.

    Raises:
        RuntimeError: The station ended on its own, or not as it should.
    """
    first_s = frame_seconds(line_bundle(folder / "first", tile_px=TILE_PX, trips=_FIRST_TRIPS).path)
    trips = max(1, round(_FIRST_TRIPS * FRAME_S / first_s))
    slow_trips = round(_FIRST_TRIPS * len(TILES) * SLOW_CALL_S / first_s)
    bundle = line_bundle(folder / "bundle", tile_px=TILE_PX, trips=trips, slow_trips=slow_trips).path
    spots = make_web(folder / "web.npy")
    frame_s = frame_seconds(bundle)
    faults: Counter[str] = Counter()
    loads: dict[str, object] = {}
    broker = Broker(folder)
    try:
        for load_factor, share in ((0.8, CALM_SHARE), (1.5, 1 - CALM_SHARE)):
            lines_per_s = load_factor * (FRAME_LINES - OVERLAP_LINES) / frame_s
            place = folder / f"load{load_factor}"
            with small_disk(folder / f"disk{load_factor}") as disk:
                place.mkdir()
                for name in ("bundle", "web.npy"):
                    (place / name).symlink_to(folder / name)
                station = StationProcess(place, disk, broker, lines_per_s=lines_per_s)
                try:
                    statuses = _trouble(station, broker, disk, seconds=seconds * share, faults=faults)
                finally:
                    station.end()
                verdict = check(
                    sorted(disk.glob("results.jsonl*")),
                    broker.heard,
                    spots=spots,
                    web_lines=WEB_LINES,
                    frame_lines=FRAME_LINES,
                    overlap_lines=OVERLAP_LINES,
                )
                loads[str(load_factor)] = _report(verdict, station.watched, lines_per_s, statuses)
    finally:
        broker.close()
    detector = load(bundle, threads=1)
    return {
        "seconds": seconds,
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "frame_ms": frame_s * 1000,
        "deadline_ms": DEADLINE_MS,
        "faults": dict(faults),
        "loads": loads,
        "environment": fingerprint(detector.session),
    }


def _trouble(station: StationProcess, broker: Broker, disk: Path, *, seconds: float, faults: Counter[str]) -> list[int]:
    """One life with outside faults, a kill, and a quiet life that ends with SIGTERM; gives the exit statuses."""

    def fault(name: str, begin: Callable[[], object], end: Callable[[], object], *, hold_s: float) -> None:
        begin()
        station.run_for(hold_s)
        end()
        faults[name] += 1
        station.run_for(pause_s)

    def fill() -> None:
        with (
            suppress(OSError),
            (disk / "filler").open("wb", buffering=0) as stream,
        ):  # a buffer would fail again at the end
            while True:
                stream.write(bytes(1 << 16))

    until_s, pause_s = time.monotonic() + seconds, 0.5
    station.start()
    station.run_for(2)
    fault("broker restarted", broker.stop, broker.start, hold_s=1.5)
    fault("disk full", fill, (disk / "filler").unlink, hold_s=1.5)
    fault(
        "process stopped and continued",
        lambda: (station.signal(signal.SIGSTOP), time.sleep(0.7), station.signal(signal.SIGCONT)),
        lambda: None,
        hold_s=0.5,
    )
    station.signal(signal.SIGKILL)
    statuses = [station.wait()]
    faults["killed and restarted"] += 1
    if FAKETIME.exists():
        station.start(own_clock=True)
        fault("clock stepped back", lambda: station.step_clock(-7200), lambda: None, hold_s=1.5)
        fault("clock stepped forth", lambda: station.step_clock(+86400), lambda: None, hold_s=1.5)
        station.signal(signal.SIGKILL)
        statuses.append(station.wait())
        faults["killed and restarted"] += 1
    station.start()
    station.run_for(max(3.0, until_s - time.monotonic()))
    station.signal(signal.SIGTERM)
    statuses.append(station.wait())
    if statuses[-1] != 0 or set(statuses[:-1]) != {-signal.SIGKILL}:
        raise RuntimeError(f"exit statuses {statuses}, expected kills and a clean end: {station.log()}")
    return statuses


def _report(verdict: Verdict, watched: Watched, lines_per_s: float, statuses: list[int]) -> dict[str, object]:
    settled = [i for i, frame in enumerate(watched.frames) if frame >= WARM_UP_FRAMES]
    frames, rss = ([values[i] for i in settled] for values in (watched.frames, watched.rss_kib))
    spread = frames[-1] - frames[0] if len(frames) > 2 else 0
    slope = float(np.polyfit(frames, rss, 1)[0]) * 10_000 / 1024 if spread >= LEAST_FRAMES else None
    return {
        "lines_per_s": lines_per_s,
        **verdict.figures(),
        "exit_statuses": statuses,
        "rss_mib": [watched.rss_kib[0] / 1024, watched.rss_kib[-1] / 1024],
        "rss_slope_mib_per_10000_frames": slope,
        "frames_behind_slope": spread,
        "threads": [watched.threads[len(watched.threads) // 2], watched.threads[-1]],
        "descriptors": [watched.descriptors[len(watched.descriptors) // 2], watched.descriptors[-1]],
    }


def main() -> None:
    """Parse, run, write; exit 1 where something that must hold does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.6)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the default is what the pages show")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder), seconds=60 * arguments.minutes)
    text = json.dumps(found, indent=2) + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    if arguments.out == RESULTS:
        write_tables(check=False)
    print(text, end="")
    if failures := broken(found):
        sys.exit("error: " + "; ".join(failures))


if __name__ == "__main__":
    main()
