"""What the benchmarks share: timing side by side, the machine in words, ratios against targets,
JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "benchmarks"
RESULTS = ROOT / "benchmarks" / "results"
NO_BF16 = "no native bf16"


@dataclass(frozen=True)
class Ratio:
    """One claim: ratios of pairs that were timed side by side.

    Attributes:
        name: What is divided by what.
        pairs: One ratio a round.
        target: What the median should reach, None for a figure that is only shown.
        wanted: `at least` or `at most` the target.
        excuse: Why the target does not apply to this run, else empty.
    """

    name: str
    pairs: list[float]
    target: float | None = None
    wanted: str = "at least"
    excuse: str = ""

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        if self.excuse:
            return f"not applicable here: {self.excuse}"
        reached = median(self.pairs)
        return (
            "met"
            if (reached >= self.target if self.wanted == "at least" else reached <= self.target)
            else "MISSED"
        )

    def as_dict(self) -> dict[str, Any]:
        figures = {
            "median": median(self.pairs),
            "min": min(self.pairs),
            "max": max(self.pairs),
            "pairs": self.pairs,
        }
        return {
            "name": self.name,
            **figures,
            "wanted": self.wanted,
            "target": self.target,
            "verdict": self.verdict,
        }


def parse(
    description: str | None, rounds: int, small_rounds: int, *more: tuple[str, str]
) -> argparse.Namespace:
    """The arguments that all commands take, and options with a value of a command's own: (flag,
    help)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a quick look; targets are not judged by it"
    )
    parser.add_argument(
        "--rounds", type=int, help=f"default: {rounds}, with --small {small_rounds}"
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="default: benchmarks/results/NAME[-small].json"
    )
    for flag, text in more:
        parser.add_argument(flag, help=text)
    args = parser.parse_args()
    # So that what a benchmark started ends with it, also when it is killed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.rounds is None:
        args.rounds = small_rounds if args.small else rounds
    if args.rounds < 1:
        parser.error("--rounds: expected at least 1")
    return args


def seconds(call: Callable[[], object]) -> float:
    """The wall time of one call, with whatever it left running on a GPU."""
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def wait() -> None:
    """Waits for the GPU, if torch runs on one: its kernels are only queued by the call that starts
    them."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(
    title: str, first: Callable[[], object], second: Callable[[], object], rounds: int
) -> list[tuple[float, float]]:
    """Seconds of both calls, a pair a round, in turn, so that a noisy neighbor slows both alike.

    Both run once before that, unmeasured.
    """
    first()
    second()
    pairs = []
    for number in range(rounds):
        pairs.append((seconds(first), seconds(second)))
        say(
            f"{title}: round {number + 1} of {rounds}: {pairs[-1][0]:.3f} s and"
            f" {pairs[-1][1]:.3f} s"
        )
    return pairs


def say(text: str) -> None:
    """One line of progress."""
    print(f"  {text}", flush=True)


@contextmanager
def step(title: str) -> Iterator[list[float]]:
    """Says what is being timed and how long it took; gives a list that receives the seconds."""
    say(f"{title} ...")
    taken: list[float] = []
    started = time.perf_counter()
    yield taken
    wait()
    taken.append(time.perf_counter() - started)
    say(f"{title}: {taken[0]:.2f} s")


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    import torch

    from breedlab.training.auto_values import choose_accelerator, has_native_bf16

    accelerator = choose_accelerator("auto")
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if accelerator == "gpu" else "cpu",
        "native_bf16": has_native_bf16(accelerator),
    }
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def report(
    args: argparse.Namespace,
    name: str,
    here: dict[str, Any],
    ratios: list[Ratio],
    figures: dict[str, Any],
) -> None:
    """Prints the machine, what was measured and the ratios; writes all of it as JSON.

    Args:
        args: From `parse`.
        name: The benchmark's.
        here: From `machine`, taken before the work began: its load is other people's.
        ratios: The claims.
        figures: Whatever else was measured, by a name with its unit.
    """
    from breedlab.console import console, table

    print()
    print(
        f"{here['cpu']}, {here['cores']} cores, load {here['load']} before; torch {here['torch']},"
        f" {here['threads']} threads, on {here['accelerator']};"
        f" native bf16: {'yes' if here['native_bf16'] else 'no'}"
    )
    console.print(
        table(
            "Measured", ["what", "value"], [[key, _short(value)] for key, value in figures.items()]
        )
    )
    rows = []
    for ratio in ratios:
        spread = f"{min(ratio.pairs):.2f} to {max(ratio.pairs):.2f}, {len(ratio.pairs)} pairs"
        target = "" if ratio.target is None else f"{ratio.wanted} {ratio.target:g}"
        rows.append([ratio.name, f"{median(ratio.pairs):.2f}", spread, target, ratio.verdict])
    console.print(table("Ratios", ["what", "median", "spread", "target", ""], rows))
    path = args.json or RESULTS / f"{name}{'-small' if args.small else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "small": args.small,
        "rounds": args.rounds,
        "machine": here,
        "ratios": [ratio.as_dict() for ratio in ratios],
        "measured": figures,
    }
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written: {path}")


def mean_and_interval(values: list[float], form: str = ".1%") -> str:
    """The mean over seeds and its 95% interval, by Student's t."""
    if len(values) < 2:
        return f"{values[0]:{form}} (one seed)"
    from scipy.stats import t

    middle = mean(values)
    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return (
        f"{middle:{form}} ({middle - half:{form}} to {middle + half:{form}}; {len(values)} seeds)"
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
