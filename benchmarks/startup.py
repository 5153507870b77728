"""How soon `scripts/launch.py` answers: --help, a typo and a dry run, against an empty @hydra.main
app.

The empty app imports pydantic, which every validated config needs. Whole processes are timed, in
turn.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from _harness import ROOT, Ratio, interleave, machine, parse, report

_EMPTY_APP = """\
import hydra
import pydantic


@hydra.main(version_base="1.3", config_path=None)
def main(config):
    pass


main()
"""

# The words and the exit code that they end with.
_CASES = {
    "--help": (["--help"], 0),
    "a typo": (["experiment=resnet34_hpo", "optim.lrr=0.1"], 2),
    "dry_run=true": (["experiment=resnet34_hpo", "dry_run=true"], 0),
}
_TARGET = 1.5


def main() -> None:
    args = parse(__doc__, rounds=15, small_rounds=5)
    here = machine()
    ratios, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        app = Path(folder, "app.py")
        app.write_text(_EMPTY_APP)

        # Python keeps what it compiled, unless a variable forbids it: both sides as users have it.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder, "compiled"))

        def run(words: list[str], code: int) -> None:
            done = subprocess.run(
                [sys.executable, *words],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != code:
                raise SystemExit(
                    f"{' '.join(words)} ended with {done.returncode}, not {code}:\n{done.stderr}"
                )

        for title, (words, code) in _CASES.items():
            ours = [str(ROOT / "scripts" / "launch.py"), *words]
            pairs = interleave(
                f"launch.py {title} and the empty app",
                lambda ours=ours, code=code: run(ours, code),  # type: ignore[misc]
                lambda: run([str(app)], 0),
                args.rounds,
            )
            figures[f"launch.py {title}, s"] = median(mine for mine, _ in pairs)
            figures[f"empty app beside it, s ({title})"] = median(theirs for _, theirs in pairs)
            ratios.append(
                Ratio(
                    f"launch.py {title} / empty app",
                    [mine / theirs for mine, theirs in pairs],
                    _TARGET,
                    "at most",
                )
            )
    report(args, "startup", here, ratios, figures)


if __name__ == "__main__":
    main()
