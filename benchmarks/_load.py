"""A load generator that leaves the cores to whom it measures: one process, plain sockets, requests
made beforehand.

`python _load.py PORT PATH CONCURRENCY SECONDS CONTENT_TYPE FILE...` asks with as many connections,
each again as soon as it is answered, and prints JSON: answers by status and a second, latencies in
milliseconds, its own share of a core.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class _Connection:
    port: int
    requests: Iterator[bytes]
    socket: socket.socket = field(init=False)
    rest: memoryview = field(init=False)
    answer: bytearray = field(init=False)
    started: float = 0.0
    until: int = 0

    def __post_init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.socket.setblocking(False)

    def ask(self) -> None:
        self.rest, self.answer, self.until = memoryview(next(self.requests)), bytearray(), 0
        self.started = time.perf_counter()
        self.send()

    def send(self) -> None:
        try:
            while self.rest:
                self.rest = self.rest[self.socket.send(self.rest) :]
        except BlockingIOError:
            pass

    def read(self) -> int:
        """The status, once the whole answer is there; else 0."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionError("the server hung up")
        self.answer += part
        if not self.until:
            end = self.answer.find(b"\r\n\r\n")
            if end < 0:
                return 0
            head = bytes(self.answer[:end]).lower()
            self.until = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return int(self.answer[9:12]) if len(self.answer) >= self.until else 0


def generate(port: int, requests: list[bytes], concurrency: int, seconds: float) -> dict[str, Any]:
    """Asks for so long, and what came of it."""
    source = cycle(requests)
    waiting = selectors.DefaultSelector()
    statuses: Counter[int] = Counter()
    latencies = []
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(concurrency):
        one = _Connection(port, source)
        waiting.register(one.socket, selectors.EVENT_READ, one)
        one.ask()
    open_requests = concurrency
    while open_requests:
        for key, _ in waiting.select(
            0.002 if any(c.data.rest for c in waiting.get_map().values()) else 30
        ):
            one = key.data
            status = one.read()
            if status:
                now = time.perf_counter()
                statuses[status] += 1
                latencies.append(1000 * (now - one.started))
                if now - began < seconds:
                    one.ask()
                else:
                    waiting.unregister(one.socket)
                    one.socket.close()
                    open_requests -= 1
        for key in list(waiting.get_map().values()):
            if key.data.rest:
                key.data.send()
    taken = time.perf_counter() - began
    return {
        "statuses": dict(statuses),
        "per_second": len(latencies) / taken,
        "p50": float(np.percentile(latencies, 50)),
        "p99": float(np.percentile(latencies, 99)),
        "cores": (time.process_time() - busy) / taken,
    }


def load(
    port: int, path: str, concurrency: int, seconds: float, kind: str, files: list[Path]
) -> dict[str, Any]:
    """`generate` in a process of its own; every answer has to be 200."""
    words = [port, path, concurrency, seconds, kind, *files]
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the load generator ended with {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    if set(found["statuses"]) != {"200"}:
        raise SystemExit(f"port {port}: not all answers are 200: {found['statuses']}")
    return found


def request(path: str, kind: str, body: bytes) -> bytes:
    """One POST as it goes over the wire."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length:"
        f" {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    port, path, concurrency, seconds, kind, *files = sys.argv[1:]
    made = [request(path, kind, Path(file).read_bytes()) for file in files]
    print(json.dumps(generate(int(port), made, int(concurrency), float(seconds))))
