"""Messages, help and pages name commands the way that the user typed this one."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breedlab import cli
from breedlab.commands import command

ROOT = Path(__file__).resolve().parents[2]
NAMES = "|".join(cli.COMMANDS)
FROM_CHECKOUT = re.compile(rf"python \S*scripts/|\b({NAMES})\.py\b")
INSTALLED = re.compile(rf"\bbreedlab ({NAMES})\b")
TITLE = '<p class="kind">breedlab report</p>'
FORBIDDEN = {"breedlab": FROM_CHECKOUT, "scripts": INSTALLED}


def typed(spelling: str, name: str) -> list[str]:
    """A command's words as `breedlab NAME`, or as `python scripts/NAME.py`."""
    installed = str(Path(sys.executable).with_name("breedlab"))
    return [installed, name] if spelling == "breedlab" else [sys.executable, f"scripts/{name}.py"]


@pytest.mark.parametrize(
    ("argv0", "expected"),
    [
        ("/usr/bin/breedlab", "breedlab predict runs/latest"),
        ("breedlab launch", "breedlab predict runs/latest"),
        ("scripts/launch.py", "python scripts/predict.py runs/latest"),
        (f"{ROOT}/scripts/launch.py", f"python {ROOT}/scripts/predict.py runs/latest"),
        # somebody else's folder of that name
        ("../scripts/train.py", "breedlab predict runs/latest"),
        ("ipykernel_launcher.py", "breedlab predict runs/latest"),
        ("", "breedlab predict runs/latest"),
    ],
)
def test_a_command_is_spelled_like_the_one_that_was_typed(
    argv0: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [argv0])
    assert command("predict", Path("runs/latest")) == expected


@pytest.mark.parametrize("spelling", FORBIDDEN)
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_about_the_command_as_typed(
    name: str, spelling: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "completion" and spelling != "breedlab":
        return  # shells complete the installed command alone
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        sys, "argv", [*(["breedlab"] if spelling == "breedlab" else []), *typed(spelling, name)[1:]]
    )
    sys.argv.append("--help")
    with pytest.raises(SystemExit) as ended:
        cli.main() if spelling == "breedlab" else cli.run(name)
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert command(name) in shown
    assert not FORBIDDEN[spelling].search(shown), shown


def test_no_message_spells_a_command_itself() -> None:
    for file in sorted((ROOT / "src").rglob("*.py")):
        if file.name != "commands.py":
            for text in _texts(ast.parse(file.read_text("utf-8"))):
                assert not FROM_CHECKOUT.search(text) and not INSTALLED.search(text), (
                    f"{file}: {text!r}"
                )
    for file in sorted((ROOT / "src").rglob("*.j2")):
        assert not FROM_CHECKOUT.search(file.read_text("utf-8")), file


def _texts(module: ast.Module) -> Iterator[str]:
    """Every string of a module that is not a docstring."""
    docstrings = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield node.value


@pytest.mark.slow
@pytest.mark.parametrize("spelling", FORBIDDEN)
def test_a_whole_circle_names_commands_as_typed(
    spelling: str,
    here: Path,
    words: Callable[..., list[str]],
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In all that is printed and in all that is written, beside what was typed."""
    (here / "scripts").symlink_to(ROOT / "scripts")
    test = image_folder / "test"
    unlabeled = here / "unlabeled"
    unlabeled.mkdir()
    (unlabeled / "train").symlink_to(image_folder / "train")
    (unlabeled / "test").symlink_to(next(test.iterdir()))

    def circle(name: str, *args: str, code: int = 0) -> str:
        """What a command prints; in this process, since each other would import everything anew."""
        start = typed(spelling, name)[0 if spelling == "breedlab" else 1 :]
        monkeypatch.setattr(sys, "argv", [*start, *args])
        with pytest.raises(SystemExit) as ended:
            cli.main() if spelling == "breedlab" else cli.run(name)
        shown = capfd.readouterr()
        assert ended.value.code == code, shown.err
        return shown.out + shown.err

    one_epoch = words("name=circle", "trainer.max_epochs=1", "debugger=losses")
    shown = [
        circle("launch", *one_epoch),
        circle("launch", "resume=runs/latest", "dry_run=true"),
        circle("launch", *one_epoch, f"data.root={unlabeled}", code=2),
        circle("predict", "runs/latest", str(test)),
        circle("predict", str(test), "--endpoint", "http://127.0.0.1:9", code=2),
        circle("evaluate", "runs/latest", str(test)),
        circle("report", "runs/latest"),
        circle("debug", "runs/latest", "--json"),
        circle("jobs", "list"),
        circle("deploy", "runs/latest", "--dry-run", "--region", "eu-west-1"),
    ]
    files = [
        path for path in (here / "runs").rglob("*") if path.suffix in (".html", ".json", ".yaml")
    ]
    page = (here / "runs" / "latest" / "report.html").read_text("utf-8")
    shown += [path.read_text("utf-8") for path in files]
    for text in shown:
        found = FORBIDDEN[spelling].search(text.replace(TITLE, ""))
        assert not found, text[found.start() - 200 : found.end() + 200]
    prefix = "breedlab predict" if spelling == "breedlab" else "python scripts/predict.py"
    assert (
        prefix in shown[0]
        and f"{prefix} runs/latest" in shown[2]
        and f"<code>{prefix} runs/latest" in page
    )
