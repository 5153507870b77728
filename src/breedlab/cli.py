"""The commands: `breedlab launch|predict|...`, and the same as scripts/*.py."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module

from breedlab.errors import BreedlabError

COMMANDS = {
    "launch": "search, train, test and export: launch experiment=NAME [PATH=VALUE ...]",
    "predict": "what a model sees in photos: predict MODEL|RUN PHOTO...",
    "evaluate": "how good a model is on labelled photos: evaluate MODEL|RUN FOLDER",
    "debug": "what a run's training did, by the debugger's rules: debug RUN",
    "deploy": "a model behind an endpoint on SageMaker: deploy MODEL|RUN [--dry-run]",
    "jobs": "jobs on SageMaker: jobs list|show|stop|fetch NAME",
    "upload": "labelled photos into S3: upload DATA s3://BUCKET/FOLDER",
    "serve": "a model behind HTTP on this machine: serve MODEL|RUN [--host --port]",
    "report": "a run, or several compared, as one page: report RUN... [--out FILE]",
}


_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""What the file system answers to a place that cannot be written or read."""


def main() -> None:
    """`breedlab COMMAND ...`."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: breedlab COMMAND ...\n")
        print("\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items()))
        print("\nbreedlab COMMAND --help says more.")
        sys.exit(0 if words else 2)
    if words[0] not in COMMANDS:
        print(f"breedlab: no command {words[0]!r}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"breedlab {words[0]}", *words[1:]]
    run(words[0])


def run(command: str) -> None:
    """Runs one command on `sys.argv` and exits: one message and a code for whatever a person can mend."""
    try:
        entry: Callable[[list[str]], int] = import_module(f"breedlab.{command}").main
        code = entry(sys.argv[1:])
        sys.stdout.flush()
    except BreedlabError as error:
        code = error.exit_code if error.told else _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _say(_interrupted(command), 130)
    except BrokenPipeError:  # `... | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if isinstance(error, OSError) and error.filename and error.errno in _REFUSALS:
            sys.exit(_say(f"{error.filename}: {error.strerror}; name another place or mend its permissions", 1))
        if not _is_disk_full(error):
            raise
        # Not the file that the error names: libraries write elsewhere first and move it here.
        free = shutil.disk_usage(".").free / 1e6
        code = _say(f"the disk is full ({free:.0f} MB are left here); free some space{_resume_hint()}", 1)
    sys.exit(code)


def _say(text: str, code: int) -> int:
    from breedlab.names import printable

    # What it quotes may be an archive's, a server's or a file's name.
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)
    return code


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether ENOSPC is behind an error; libraries wrap it, and SQLite has words of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        if any(words in str(error) for words in ("No space left on device", "database or disk is full")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _interrupted(command: str) -> str:
    return f"interrupted{_resume_hint()}" if command == "launch" else "interrupted"


def _resume_hint() -> str:
    """How to go on, once there is something to go on from."""
    rundir = sys.modules.get("breedlab.training.rundir")
    current = getattr(rundir, "current", None)
    return f"; go on with: python scripts/launch.py resume={current}" if current else ""


if __name__ == "__main__":
    main()
