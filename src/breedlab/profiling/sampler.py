"""The system monitor: a separate process, so that it neither waits for the training nor makes it
wait.

It reads commands from stdin, one JSON list per line: ["stage", NAME] and ["write", PATH]. Samples
are kept until there is a file to write them to. It ends when stdin closes, so that it never
outlives the run, however that ends.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_GB, _MB = 1e9, 1e6
_LOOK_AROUND = 10
"""The run's child processes are looked up once in this many samples: that reads all of /proc."""


class Gpus:
    """NVIDIA's GPUs through NVML; none where there is no driver."""

    def __init__(self) -> None:
        self.handles: list[Any] = []
        try:
            import pynvml

            pynvml.nvmlInit()
            self.handles = [
                pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())
            ]
            self.nvml = pynvml
        except Exception:  # no package, no driver, no rights: there is no GPU to watch
            self.handles = []

    def capacities(self) -> list[float]:
        """Return the total gigabytes by GPU."""
        return [round(self.nvml.nvmlDeviceGetMemoryInfo(h).total / _GB, 3) for h in self.handles]

    def sample(self) -> list[dict[str, float]]:
        return [
            {
                "util": float(self.nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
                "memory_gb": round(self.nvml.nvmlDeviceGetMemoryInfo(handle).used / _GB, 3),
            }
            for handle in self.handles
        ]


class Machine:
    """One sample of the machine and of the run's processes; rates are since the sample before."""

    def __init__(self, process: int) -> None:
        self.gpus = Gpus()
        self.run = psutil.Process(process)
        self.processes: list[psutil.Process] = []
        self.count = 0
        psutil.cpu_percent(percpu=True)
        psutil.cpu_times_percent()
        self.before = (time.monotonic(), *self._counters())

    def _counters(self) -> tuple[Any, Any]:
        return psutil.disk_io_counters(), psutil.net_io_counters()

    def sample(self) -> dict[str, Any]:
        now, (disk, net) = time.monotonic(), self._counters()
        then, disk_then, net_then = self.before
        self.before = (now, disk, net)

        def rate(new: Any, old: Any, name: str) -> Any:
            if new is None or old is None:  # a container without its own disks or network
                return 0.0
            return round((getattr(new, name) - getattr(old, name)) / _MB / max(now - then, 1e-3), 3)

        return {
            "cpu": psutil.cpu_percent(percpu=True),
            "io_wait": float(getattr(psutil.cpu_times_percent(), "iowait", 0.0)),
            "memory_gb": round(psutil.virtual_memory().used / _GB, 3),
            "process_memory_gb": round(self._process_memory() / _GB, 3),
            "gpu": self.gpus.sample(),
            "disk_read_mb_s": rate(disk, disk_then, "read_bytes"),
            "disk_write_mb_s": rate(disk, disk_then, "write_bytes"),
            "net_in_mb_s": rate(net, net_then, "bytes_recv"),
            "net_out_mb_s": rate(net, net_then, "bytes_sent"),
        }

    def _process_memory(self) -> int:
        """Return the bytes of the run and its workers; shared pages count in each process."""
        if self.count % _LOOK_AROUND == 0:
            own = os.getpid()
            self.processes = [
                self.run,
                *(c for c in self.run.children(recursive=True) if c.pid != own),
            ]
        self.count += 1
        total = 0
        for process in self.processes:
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue  # a worker that has ended
        return total


def main() -> None:
    process, interval, started = int(sys.argv[1]), int(sys.argv[2]) / 1000, float(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # only the run responds to Ctrl-C
    commands: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    machine, stage, lines, file, offset = Machine(process), "", list[dict[str, Any]](), None, 0.0
    following = time.monotonic()
    while True:
        following = max(following + interval, time.monotonic())
        stop = False
        while True:
            try:
                command = commands.get(timeout=max(0.0, following - time.monotonic()))
            except queue.Empty:
                break
            if command is None:
                stop = True
                break
            if command[0] == "stage":
                stage = command[1]
            elif command[0] == "write":
                path = Path(command[1])
                offset = last_time(path)
                file = path.open("a")
                began = datetime.fromtimestamp(time.time() - time.monotonic() + started, UTC)
                header = {
                    "wall_start": began.isoformat(timespec="milliseconds"),
                    "offset": offset,
                    "interval_ms": round(interval * 1000),
                    "cores": psutil.cpu_count() or 1,
                    "memory_gb": round(psutil.virtual_memory().total / _GB, 3),
                    "gpu_memory_gb": machine.gpus.capacities(),
                }
                file.write(json.dumps(header) + "\n")
        try:
            lines.append({"t": time.monotonic() - started, "stage": stage, **machine.sample()})
        except psutil.NoSuchProcess:
            stop = True
        if file is not None:
            for line in lines:
                file.write(json.dumps({**line, "t": round(line["t"] + offset, 3)}) + "\n")
            file.flush()
            lines.clear()
        if stop:
            return


def last_time(path: Path) -> float:
    """Return the seconds at which a continued recording had stopped; 0 for a new one. Cut off a
    torn last line."""
    if not path.exists():
        return 0.0
    whole = path.read_bytes()
    lines = whole[: whole.rfind(b"\n") + 1]
    if len(lines) < len(whole):
        os.truncate(path, len(lines))
    times = [json.loads(line).get("t", 0.0) for line in lines.splitlines()[-2:]]
    return float(max(times, default=0.0))


def _listen(commands: queue.SimpleQueue[list[str] | None]) -> None:
    for line in sys.stdin:
        commands.put(json.loads(line))
    commands.put(None)


if __name__ == "__main__":
    main()
