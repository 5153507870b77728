"""What the debugger costs: a step of ResNet34 at 224 px with `debugger=default` and
`profiler=system`, and without.

Both are real trainings by Lightning, every layer of it, that take turns step by step in one
process; while the one without has its turn, the profiler's monitor is halted. A round is as many
steps as lie between two savings of tensors, so it holds one of those. Then the reading: 1,000 steps
of losses and 20 of tensors, read and judged as at a run's end. Then the report of a run with that
recording, 133 classes and 20 trials, by `scripts/report.py` as a whole process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from _harness import ROOT, Ratio, machine, parse, report, say
from _turns import CLASSES, in_turns

_EVERY, _COST, _READING_S, _REPORT_S, _REPORT_MB = 50, 1.03, 10.0, 5.0, 3.0


def main() -> None:
    args = parse(__doc__, rounds=1, small_rounds=1)
    here = machine()
    size, every = (4, 10) if args.small else (16, _EVERY)
    with tempfile.TemporaryDirectory() as folder:
        # Tensors are saved in the very first step, which does not count, and in the last of each
        # round.
        both = ["debugger=default", f"debugger.every={every}", "profiler=system"]
        pairs = in_turns(Path(folder), both, size, every, args.rounds)
        reading, tensors = _reading(Path(folder), *((100, 5) if args.small else (1000, 50)))
        writing, megabytes = _report(Path(folder), 100 if args.small else 1000)
    figures = {
        "batch size": size,
        "steps a round": every,
        "without, ms a step": 1000 * median(without for without, _ in pairs) / every,
        "with, ms a step": 1000 * median(both for _, both in pairs) / every,
        "read and judged, s": reading,
        "tensors": tensors,
        "report without images, MB": megabytes,
    }
    excuse = "targets are for the full size" if args.small else ""
    ratios = [
        Ratio("step with / without, time", [b / a for a, b in pairs], _COST, "at most", excuse),
        Ratio("read and judged, s", [reading], _READING_S, "at most", excuse),
        Ratio("report written, s", writing, _REPORT_S, "at most", excuse),
        Ratio("report without images, MB", [megabytes], _REPORT_MB, "at most", excuse),
    ]
    report(args, "debugger", here, ratios, figures)


def _reading(folder: Path, steps: int, every: int) -> tuple[float, int]:
    """Seconds to read and judge a recording of ResNet34, and how many tensors it has."""
    import torch
    from torch import nn
    from torchvision.models import resnet34

    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.debugging.collections import hook_from_config
    from breedlab.debugging.rule_runner import judge_run

    config = validate(load(["experiment=resnet34", f"debugger.every={every}"])).debugger
    run, network, loss = folder / "recorded", resnet34(num_classes=CLASSES), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    hook = hook_from_config(config, run / "debug" / "0", network, outputs=True)
    hook.start_at(0, 0)
    hook.register(network, network, loss)
    images, labels = torch.randn(4, 3, 32, 32), torch.randint(0, CLASSES, (4,))

    from smdebug import modes

    for step in range(steps):
        if step % 100 == 0:
            say(f"recording: step {step} of {steps}")
            hook.set_mode(modes.EVAL)
            with torch.no_grad():
                loss(network(images), labels)
            hook.set_mode(modes.TRAIN)
        optimizer.zero_grad()
        loss(network(images), labels).backward()
        optimizer.step()
        hook.step_is_over()
    hook.end()
    started = perf_counter()
    tape, verdicts = judge_run(run, config.rules)
    assert len(tape.losses("TRAIN")) == steps and len(verdicts) == 15
    return perf_counter() - started, len(tape.trial.tensor_names())


def _report(folder: Path, steps: int) -> tuple[list[float], float]:
    """Seconds to write the report of a run with the recording that was read, three times, and its
    megabytes."""
    sys.path.append(str(ROOT / "tests" / "reporting"))
    from made_runs import write_run  # type: ignore[import-not-found]  # the tests'

    from breedlab.cli.debug import recorded_limits
    from breedlab.debugging.rule_runner import conclude

    classes = [f"{kind} dog of color {color}" for color in range(7) for kind in range(19)]
    run = write_run(folder / "made", classes=classes, trials=20, steps=steps)
    (folder / "recorded" / "debug").rename(run / "debug")
    conclude(run, recorded_limits(run))  # as a run does when it ends
    taken = []
    for number in range(3):
        started = perf_counter()
        command = [sys.executable, str(ROOT / "scripts" / "report.py"), str(run)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(perf_counter() - started)
        say(f"the report, {number + 1} of 3: {taken[-1]:.2f} s")
    return taken, (run / "report.html").stat().st_size / 1e6


if __name__ == "__main__":
    main()
