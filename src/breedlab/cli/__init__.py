"""The commands: `breedlab launch|predict|...`, and the same as scripts/*.py."""

from __future__ import annotations

import codecs
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module

from breedlab.errors import BreedlabError, DiskFull, UsageError, causes, ended_run
from breedlab.garbage import no_collection

COMMANDS = {
    "launch": "search, train, test, and export: launch experiment=NAME [PATH=VALUE ...]",
    "check": "check a folder of images before training: check DIR [PATH=VALUE ...]",
    "predict": "classify images: predict MODEL|RUN IMAGE...",
    "evaluate": "test a model on labeled images: evaluate MODEL|RUN FOLDER",
    "debug": "apply the debugger's rules to a run: debug RUN",
    "export": "write a model for other programs: export MODEL|RUN --onnx FILE",
    "deploy": "create or update a SageMaker endpoint: deploy MODEL|RUN [endpoint.NAME=VALUE]",
    "batch": "classify all images in S3: batch MODEL|RUN s3://IN s3://OUT",
    "jobs": "manage jobs on Ray or SageMaker: jobs list|show|stop|fetch|resume NAME",
    "account": "set up an AWS account: account policies, account bootstrap --dry-run",
    "upload": "copy labeled images to S3: upload DATA s3://BUCKET/FOLDER",
    "serve": "serve a model over HTTP on this machine: serve MODEL|RUN [--host --port]",
    "help": "explain the settings: help [PATH]",
    "report": "write a page about a run, or several compared: report RUN... [--out FILE]",
    "completion": "print a shell completion script: completion bash|zsh|fish",
}


_REFUSALS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
"""What the file system answers to a place that cannot be written or read."""


def main() -> None:
    """Run `breedlab COMMAND ...`."""
    degrade_terminal()
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(
            "usage: breedlab DIR [PATH=VALUE ...]   inspect a folder of labeled images, and train"
        )
        print("       breedlab COMMAND ...\n")
        print("\n".join(f"  {name:12}{text}" for name, text in COMMANDS.items()))
        print(
            "\nbreedlab COMMAND --help explains a command; breedlab --version prints the version."
        )
        sys.exit(0 if words else 2)
    if words[0] in ("--version", "-V"):
        from breedlab.version import __version__

        print(f"breedlab {__version__}")
        sys.exit(0)
    if words[0] not in COMMANDS and _is_folder(words[0]):
        sys.argv = ["breedlab", *words]
        run("folder")
    if words[0] not in COMMANDS:
        from breedlab.suggestions import nearest

        error = UsageError(
            f"breedlab: no command {words[0]!r}; expected a folder or one of"
            f" {', '.join(COMMANDS)}{nearest(words[0], COMMANDS)}"
        )
        sys.exit(_say(error.shown(), error.exit_code))
    sys.argv = [f"breedlab {words[0]}", *words[1:]]
    run(words[0])


def _is_folder(word: str) -> bool:
    """Return whether a word names a folder: an existing one, a mistyped one, or an archive of one,
    which gets a hint."""
    return os.path.exists(word) or (
        not word.startswith("-") and any(mark in word for mark in ("/", os.sep))
    )


def run(command: str) -> None:
    """Run one command on `sys.argv`, and exit."""

    def entry(argv: list[str]) -> int:
        with no_collection():
            main: Callable[[list[str]], int] = import_module(f"breedlab.cli.{command}").main
        return main(argv)

    guarded(entry)


def guarded(entry: Callable[[list[str]], int]) -> None:
    """Call an entry point with the words of `sys.argv`, and exit: one message and a code for
    anything that the user can fix."""
    degrade_terminal()
    try:
        code = entry(sys.argv[1:])
        sys.stdout.flush()
    except BreedlabError as error:
        hint = _resume_hint(error) if isinstance(error, DiskFull) else ""
        code = (
            error.exit_code if error.reported else _say(f"{error.shown()}{hint}", error.exit_code)
        )
    except KeyboardInterrupt as error:
        code = _say(f"interrupted{_resume_hint(error)}", 130)
    except BrokenPipeError:  # `... | head`: the reader is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if isinstance(error, OSError) and error.filename and error.errno in _REFUSALS:
            sys.exit(
                _say(
                    f"[BL600] {error.filename}: {error.strerror}; use another path or fix its"
                    " permissions",
                    1,
                )
            )
        if is_shared_memory_full(error):
            code = _say(f"[BL305] {_shared_memory_message()}{_resume_hint(error)}", 1)
        elif is_disk_full(error):
            code = _say(
                f"[{DiskFull.code}] {_disk_message(error)}; free some space{_resume_hint(error)}", 1
            )
        elif signal := ended_loader(error):
            code = _say(f"[BL306] {_loader_message(signal)}{_resume_hint(error)}", 1)
        elif is_out_of_memory(error):
            code = _say(f"[BL307] {_OUT_OF_MEMORY}{_resume_hint(error)}", 1)
        else:
            raise
    sys.exit(code)


def _say(text: str, code: int) -> int:
    from breedlab.names import printable

    # What it quotes may be an archive's, a server's or a file's name.
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr)
    return code


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error comes from a full disk or quota; libraries wrap it, and SQLite words
    it differently."""
    return any(map(_says_disk_full, causes(error)))


def _says_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    return "No space left on device" in text or "database or disk is full" in text


def is_shared_memory_full(error: BaseException) -> bool:
    """Return whether the data loaders ran out of shared memory, even if the error's message speaks
    of a device without space."""
    full = re.compile(
        r"out of shared memory|/torch_\S*: No space left|No space left on device.*/torch_"
        r"|unable to (write to|allocate|resize|open) (file|shared memory)[^:]*</torch_.*(No space"
        r" left|\(28\))",
        re.DOTALL,
    )
    return any(
        full.search(str(each))
        or (is_no_space(each) and str(getattr(each, "filename", "")).startswith(_SHM))
        for each in causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on a GPU or in this process; torch is not imported to ask."""
    return any(
        isinstance(each, MemoryError)
        or type(each).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(each)
        for each in causes(error)
    )


_OUT_OF_MEMORY = (
    "out of memory; use smaller batches (data.batch_size, or fine_tune.batch_size), smaller images"
    " (data.image_size), or model.freeze=backbone"
)


def ended_loader(error: BaseException) -> str:
    """Return by what a process that loads images was ended from outside, in PyTorch's words; empty
    if none was."""
    pattern = re.compile(
        r"DataLoader worker \(pid(?:\(s\))? [^)]*\) (is killed by signal: \w+|exited unexpectedly)"
    )
    reasons = [match[1] for each in causes(error) if (match := pattern.search(str(each)))]
    # the last cause names the signal, where there was one
    return reasons[-1].rpartition(": ")[2] if reasons else ""


def _loader_message(signal: str) -> str:
    by = f" ({signal})" if signal != "exited unexpectedly" else ""
    return (
        f"a data loader process was killed{by}, most likely because the machine"
        " ran out of memory; use fewer workers, or none (data.num_workers=0), or smaller batches"
        " (data.batch_size)"
    )


def is_no_space(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC


def _shared_memory_message() -> str:
    size = f" of {shutil.disk_usage(_SHM).total / 1e6:,.0f} MB" if os.path.isdir(_SHM) else ""
    return (
        f"shared memory{size} ({_SHM}), through which data loaders pass images, is"
        " full; give the container more (docker run --shm-size=2g, or --ipc=host), or load in this"
        " process: data.num_workers=0"
    )


def _disk_message(error: BaseException) -> str:
    """Return which disk is full: not always that of the file in the error, since libraries write
    elsewhere and move the file."""
    files = [
        str(each.filename) for each in causes(error) if isinstance(each, OSError) and each.filename
    ]
    places = [*files, ended_run(error) or ".", tempfile.gettempdir(), "."]
    folders = [_nearest_folder(place) for place in places]
    # Of those the error may mean, the one with the least room; the first where they are on one
    # disk.
    folder = min(folders, key=lambda folder: shutil.disk_usage(folder).free)
    usage = shutil.disk_usage(folder)
    if usage.free > 0.05 * usage.total and usage.free > 1e9:
        place = next(iter([*files, *folders]))
        return f"the disk, or your quota on it, is full at {place}"
    mount = folder
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    size = f"{usage.free / 1e6:,.0f} of {usage.total / 1e6:,.0f} MB"
    # What did not fit has been removed by now.
    state = "is full" if usage.free < 0.05 * usage.total else "is too small for the files written"
    return f"the disk that holds {folder} {state} ({size} are free on {mount})"


def _nearest_folder(place: object) -> str:
    """Return the folder that a path is in, as far as it exists."""
    folder = os.path.realpath(str(place))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder


_SHM = "/dev/shm"


def degrade_terminal() -> None:
    """Have what stdout and stderr cannot print replaced: no class name and no table's frame ends a
    run."""
    codecs.register_error("breedlab", _plain)
    for stream in (sys.stdout, sys.stderr):
        try:
            "›★─━█…é✓".encode(stream.encoding)
        except UnicodeError:
            stream.reconfigure(errors="breedlab")  # type: ignore[union-attr]
        except (AttributeError, TypeError, LookupError):
            # No stream, or one of a program that embeds this
            continue


_PLAIN = {
    "›": ">",
    "★": "*",
    "•": "*",
    "…": "...",
    "×": "x",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
}
_PLAIN |= (
    dict.fromkeys("─━╌┄┈–—", "-") | dict.fromkeys("│┃", "|") | dict.fromkeys("╇┼╋┿┏┓┗┛┳┻╸╺", "+")
)
_PLAIN |= dict.fromkeys("‘’", "'") | dict.fromkeys("“”„", '"') | dict.fromkeys("█▇▆▅▄▃▂▁", "#")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement for a character that a terminal cannot show."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return (
        "".join(_PLAIN.get(each, "?") for each in error.object[error.start : error.end]),
        error.end,
    )


def _resume_hint(error: BaseException) -> str:
    """Return how to continue with the run that an error ended; empty if it ended none."""
    from breedlab.commands import command

    run = ended_run(error)
    return f"; resume with: {command('launch', f'resume={run}')}" if run else ""


if __name__ == "__main__":
    main()
