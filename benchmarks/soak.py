"""Ten minutes at capacity, one request in twenty hostile: no good request may fail, and the memory
has to stay flat.

Good images are asked for with 32 connections; beside them hostile files, bodies and connections
come at a twentieth of their rate. The server's memory is read each second; its second fifth, when
everything has been seen, is compared with its last. A good request that is not answered with 200,
or a hostile one with a 5xx or with nothing, is a failure.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import urllib3
from _harness import ROOT, Ratio, machine, parse, report, say
from _images import drawn_images
from _served import ENGINES, Served, exported, ours

AT_ONCE = 32
SHARE = 0.05
_ANSWERED = 'breedlab_requests_total{path="/invocations",status="200"}'
_KINDS = ("slow body", "half a head", "gone", "nonsense", "over the limit")


def main() -> None:
    engines = ("--engine", f"one of {', '.join(ENGINES)} (default: openvino-int8)")
    args = parse(__doc__, 1, 1, ("--minutes", "default: 10, with --small 1"), engines)
    seconds = 60 * float(args.minutes or (1 if args.small else 10))
    here = machine()
    files = sorted((drawn_images(20, 60, 20) / "train").rglob("*.jpg"))
    hostile = _hostile()
    with ours(exported(args.engine or ENGINES[-1], files), files) as server:
        found = _soak(server, files, hostile, seconds)
    memory = found["memory"]
    fifth = len(memory) // 5
    growth = median(memory[-fifth:]) / median(memory[fifth : 2 * fifth])
    figures = {
        "good requests": sum(found["good"].values()),
        "good requests not answered with 200": sum(
            n for status, n in found["good"].items() if status != "200"
        ),
        "hostile requests": sum(found["hostile"].values()),
        "hostile requests answered with a 5xx or nothing": sum(
            n for status, n in found["hostile"].items() if status == "0" or status.startswith("5")
        ),
        "hostile requests by status": json.dumps(dict(sorted(found["hostile"].items()))),
        "images/s": found["per_second"],
        "p50, ms": found["p50"],
        "p99, ms": found["p99"],
        "memory after a fifth, MB": median(memory[fifth : 2 * fifth]) / 1e6,
        "memory at the end, MB": median(memory[-fifth:]) / 1e6,
        "most memory, MB": max(memory) / 1e6,
    }
    failed = (
        figures["good requests not answered with 200"]
        + figures["hostile requests answered with a 5xx or nothing"]
    )
    ratios = [
        Ratio("memory at the end / after a fifth", [growth], 1.05, "at most"),
        Ratio("failed requests", [float(failed)], 0.0, "at most"),
    ]
    report(args, "soak", here, ratios, figures)


def _soak(
    server: Served, files: list[Path], hostile: list[tuple[bytes, str]], seconds: float
) -> dict[str, Any]:
    process, over = psutil.Process(server.process.pid), threading.Event()
    memory: list[int] = []
    counts: Counter[str] = Counter()
    words = [server.port, server.path, AT_ONCE, seconds, server.kind, *files]
    with tempfile.TemporaryFile("w+") as output:
        command = [sys.executable, str(Path(__file__).with_name("_load.py")), *map(str, words)]
        good = subprocess.Popen(command, stdout=output)
        attackers = [
            threading.Thread(target=_attack, args=(server.port, hostile, counts, over, number))
            for number in range(4)
        ]
        for attacker in attackers:
            attacker.start()
        started = time.monotonic()
        while good.poll() is None:
            memory.append(process.memory_info().rss)
            if len(memory) % 30 == 0:
                sent = sum(counts.values())
                say(
                    f"{time.monotonic() - started:.0f} s of {seconds:.0f}: {memory[-1] / 1e6:.0f}"
                    f" MB, {sent} hostile"
                )
            time.sleep(1)
        over.set()
        for attacker in attackers:
            attacker.join()
        if good.returncode:
            raise SystemExit("the load generator failed: see above")
        output.seek(0)
        found: dict[str, Any] = json.load(output)
    return {**found, "good": found["statuses"], "hostile": counts, "memory": memory}


def _attack(
    port: int,
    hostile: list[tuple[bytes, str]],
    counts: Counter[str],
    over: threading.Event,
    seed: int,
) -> None:
    """One of a few attackers; all together ask for a twentieth of what is asked for, as the metrics
    have it."""
    chance = random.Random(seed)
    http = urllib3.PoolManager(retries=False, timeout=60)
    url = f"http://127.0.0.1:{port}"
    while not over.is_set():
        sent = sum(counts.values())
        text = http.request("GET", f"{url}/metrics").data.decode()
        done = sum(
            float(line.split()[1]) for line in text.splitlines() if line.startswith(_ANSWERED)
        )
        if sent > SHARE * max(done, 20):
            over.wait(0.2)
            continue
        if chance.random() < 0.2:
            counts[_connect(port, chance.choice(_KINDS))] += 1
            continue
        body, kind = chance.choice(hostile)
        if chance.random() < 0.5:  # never the same twice
            body = bytes(body[: chance.randrange(len(body) + 1)])
        try:
            status = http.request(
                "POST", f"{url}/invocations", body=body, headers={"Content-Type": kind}
            ).status
        except urllib3.exceptions.HTTPError:
            status = 0
        counts[str(status)] += 1


def _connect(port: int, kind: str) -> str:
    """A connection that behaves badly; what it was answered."""
    head = (
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length:"
        b" 50000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        match kind:
            case "gone":
                client.sendall(head + bytes(20_000))
                return "left"
            case "half a head":
                client.sendall(head[:40])
                client.shutdown(socket.SHUT_WR)
            case "nonsense":
                client.sendall(random.randbytes(200) + b"\r\n\r\n")
            case "over the limit":
                client.sendall(head.replace(b"50000", b"50000000") + bytes(20_000))
            case "slow body":
                client.sendall(head)
                for _ in range(20):
                    client.sendall(bytes(10))
                    time.sleep(0.05)
                client.shutdown(socket.SHUT_WR)
        try:
            answer = client.recv(65536)
        except OSError:
            return "0"
        return answer.split()[1].decode() if answer else "0"


def _hostile() -> list[tuple[bytes, str]]:
    """The files and bodies that the tests refuse."""
    sys.path.insert(0, str(ROOT / "tests" / "serving"))
    from hostile import refused_bodies, refused_images

    found = [(image, "application/octet-stream") for image, *_ in refused_images().values()]
    return [*found, *((body, kind or "") for body, kind, *_ in refused_bodies().values())]


if __name__ == "__main__":
    main()
