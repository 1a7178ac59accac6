"""What the soak plays with: a station in a process of its own, a small disk, a broker and its listener."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak_web import FRAME_LINES, OVERLAP_LINES, TILE_OVERLAP_PX
from reason_runtime.errors import ReasonError
from tests.line.ports import free_port

ROOT = Path(__file__).parents[1]
BLOCK_LINES = 16
DEADLINE_MS = 250
READY_S = 120.0
KEPT_FILES = 40
"""Rotated result files of 1 MiB that fit on the small disk."""
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


@dataclass(slots=True)
class Watched:
    """What was seen of the process while it ran."""

    rss_kib: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 48 MiB that is easily filled."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], check=False).returncode:
        raise ReasonError(f"{folder}: a small disk could not be mounted; that needs root")
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
        until_s = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError as error:
                if time.monotonic() > until_s or self._process.poll() is not None:
                    self.stop()
                    raise ReasonError(f"{program}: takes no connection on port {self.port}") from error
                time.sleep(0.05)

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
            f'sinks = ["jsonl:{disk}/results.jsonl?max_mib=1&keep={KEPT_FILES}", "mqtt://127.0.0.1:{broker.port}/soak"]\n'
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
                raise ReasonError(f"the station answers nothing for {READY_S:g} s: {self.log()}")
            time.sleep(0.1)

    def _written(self) -> tuple[int, int]:
        files = list(self._disk.glob("results.jsonl*"))
        return len(files), sum(path.stat().st_size for path in files)

    def _require_alive(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise ReasonError(f"the station ended on its own with {self._process.returncode}: {self.log()}")

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
