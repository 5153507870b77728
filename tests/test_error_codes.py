"""Errors are known by codes that stay, whatever their wording."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from codes import raises_code

from breedlab import cli
from breedlab.cli import launch
from breedlab.errors import CODES, BackboneError, BreedlabError, ServingError
from breedlab.serving.refusals import BadImage, BadRequest

SOURCE = Path(__file__).parents[1] / "src"
Words = Callable[..., list[str]]


def kinds() -> Iterator[type[BreedlabError]]:
    """Every class of errors in the package, whichever module has it."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        classes = re.findall(r"^class (\w+)\((?:\w*Error|BadRequest)\):", text, re.M)
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for each in classes:
            kind = getattr(import_module(name), each)
            if issubclass(kind, BreedlabError):
                yield kind


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    own = {kind.__qualname__: kind.code for kind in kinds()}
    assert {"ConfigError", "BadImage", "JobFailed", "DamagedFile"} <= own.keys()
    assert [name for name, code in own.items() if not code] == ["Terminated"]
    codes = [code for code in own.values() if code]
    assert sorted(set(codes)) == sorted(codes)
    assert set(codes) <= CODES.keys()


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("optim.lrr=0.1", "BL101"),
        ("+optim.lrr=0.1", "BL101"),
        ("optim.lr=-1", "BL103"),
        ("optim.name=addam", "BL103"),
        ("model.name=???", "BL102"),
        ("monitor.mode=min", "BL104"),
        ("tuner.space.optim.lr=[0.1,-1]", "BL105"),
        ("tuner.space.seed=[1,2]", "BL117"),
        ("optim.lr=[", "BL106"),
        ("resume=runs/nowhere", "BL110"),
        ("data.root=/nowhere", "BL200"),
    ],
)
def test_a_mistake_has_its_code(here: Path, words: Words, override: str, code: str) -> None:
    typed = [override] if override.startswith("resume") else words("tuner=random", override)
    with pytest.raises(BreedlabError) as refused:
        launch.main(typed)
    assert refused.value.code == code, str(refused.value)


def test_mistakes_of_several_kinds_have_the_code_of_all(words: Words) -> None:
    with pytest.raises(BreedlabError) as refused:
        launch.main(words("+optim.lrr=0.1", "optim.lr=-1"))
    assert refused.value.code == "BL100"


def test_a_newer_version_has_its_code(here: Path) -> None:
    run = Path("runs/newer")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"schema_version": 99}))
    (run / "overrides.yaml").write_text("[]")
    with pytest.raises(BreedlabError) as refused:
        launch.main([f"resume={run}"])
    assert refused.value.code == "BL111"


def test_a_command_prints_the_code_before_the_message(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["breedlab launch", "resume=runs/nowhere"])
    with pytest.raises(SystemExit) as ended:
        cli.run("launch")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("[BL110] resume: runs/nowhere does not exist")


def test_the_registry_has_every_code_that_is_given_and_no_other() -> None:
    sources = {path: path.read_text("utf-8") for path in SOURCE.rglob("*.py")}
    errors = SOURCE / "breedlab" / "errors.py"
    sources[errors] = sources[errors].partition("class BreedlabError")[2]
    given = {code for text in sources.values() for code in re.findall(r"\bBL[0-9]{3}\b", text)}
    assert given == CODES.keys()


@pytest.mark.parametrize(
    "error",
    [
        BackboneError("gone.pth does not exist"),
        ServingError("it cannot be unpacked", "BL505"),
        BadRequest(413, "the body is too large"),
        BadImage(1, BadRequest(415, "it is plain text"), 2),
    ],
    ids=lambda error: error.code,
)
def test_an_error_stays_what_it_is_in_other_words_and_in_another_process(
    error: BreedlabError,
) -> None:
    said = str(error)
    reworded, received = error.reworded(f"b.jpg: {error}"), pickle.loads(pickle.dumps(error))
    assert (str(reworded), str(received), str(error)) == (f"b.jpg: {said}", said, said)
    for same in (reworded, received):
        assert type(same) is type(error)
        assert vars(same) == vars(error)


def test_no_error_is_made_anew_by_a_call_of_its_class() -> None:
    """Which fails for a class whose constructor takes other arguments, and loses the code."""
    texts = [path.read_text("utf-8") for path in SOURCE.rglob("*.py")]
    assert [call for text in texts for call in re.findall(r"type\(error\)\(.*", text)] == []


def test_a_refusal_is_matched_by_its_code_and_by_what_it_names() -> None:
    def refuse() -> None:
        raise BackboneError("model.weights: gone.pth does not exist")

    with raises_code("BL120", names=("model.weights", "gone.pth")):
        refuse()
    for code, names in (("BL121", ()), ("BL120", "other.pth")):
        with pytest.raises(AssertionError), raises_code(code, names=names):
            refuse()
