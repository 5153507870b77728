"""Messages that say what to do instead: whoever follows the hint must get further."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codes import Names, check_names, raises_code
from PIL import Image

from breedlab.cli.launch import main
from breedlab.config.compose import load
from breedlab.config.validate import known_paths, validate
from breedlab.config.yaml_folders import groups
from breedlab.errors import BreedlabError, ConfigError
from breedlab.registry import METRICS
from breedlab.suggestions import SYNONYMS

Refuse = Callable[[dict[str, Any]], list[str]]


def refusal(*words: str, code: str, names: Names = ()) -> str:
    """The message that a config is refused with, before anything is started."""
    with raises_code(code, names=names) as error:
        validate(load([*words]))
    return str(error.value)


def test_several_choices_of_a_group_are_not_sent_off_to_write_a_list() -> None:
    message = refusal("optim=adam,sgd", code="BL106", names=("optim: ", "-m"))
    assert "[adam,sgd]" not in message  # a list of choices is merged into one, without a word


def test_a_list_of_choices_is_refused_rather_than_merged() -> None:
    refusal("optim=[adam,sgd]", code="BL103", names=("optim: ", "adam, adamw, sgd"))


@pytest.mark.parametrize("word", ["seed=range(2)", "seed=choice(1,2)", "experiment=glob(resnet*)"])
def test_a_sweep_function_is_not_offered_as_a_list(word: str) -> None:
    message = refusal(word, code="BL106", names="-m")
    assert f"[{word.partition('=')[2]}]" not in message


@pytest.mark.parametrize("word", ["optim.lr", "dry_run", "experiment"])
def test_a_name_without_a_value_is_not_answered_with_the_same_name(word: str) -> None:
    message = refusal(word, code="BL106", names=(f"{word}: ", "path=value"))
    assert f"did you mean {word}?" not in message


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("monitor.metric=valid/acc", "valid/top1"),
        ("monitor.metric=val_loss", "valid/loss"),
        ("model.name=resnet35", "resnet34"),
        ("trainer.device=cpu", "trainer.accelerator"),
        ("trainer.accelerator=cuda", "gpu"),
        ("optim.learning_rate=0.1", "optim.lr"),
        ("trainer.lr=0.1", "optim.lr"),
        ("epochs=3", "trainer.max_epochs"),
        ("tuner.epochs=3", "tuner.max_epochs"),
        ("trainer.batch_size=3", "data.batch_size"),
        ("modle.name=resnet18", "model.name"),
        ("resnet34_hpo", "experiment=resnet34_hpo"),
        ("resnet34_hp", "experiment=resnet34_hpo"),
        ("resnet34", "experiment=resnet34"),
    ],
)
def test_what_other_tools_call_it_is_answered_with_its_name_here(word: str, meant: str) -> None:
    with pytest.raises(ConfigError) as error:
        validate(load([word]))
    check_names(str(error.value), f"did you mean {meant}?")


@pytest.mark.parametrize(
    "word",
    [
        "trainer.action=stop",  # debugger.rules.*.action
        "data.include=x",  # debugger.collections.custom.include
        "profiler.rules.gpu.limit=3",  # backend.limits
        "optim.c=3",  # model.logistic.c
        "backend.threshold=3",  # backend.role
        "endpoint.name=dogs",  # backend.name
    ],
)
def test_a_setting_far_away_is_not_offered(word: str) -> None:
    (line,) = refusal(word, code="BL101").splitlines()[1:]
    assert line.strip().startswith(word.partition("=")[0]) and "did you mean" not in line


def test_every_synonym_leads_to_a_name_there_is() -> None:
    assert set(SYNONYMS.values()) <= {*known_paths(), *METRICS.choices(), "gpu"}


@pytest.mark.parametrize(
    "words", [["--epochs", "3"], ["--learning-rate=0.1"], ["--cgf", "job"], ["--experment=x"]]
)
def test_a_flag_is_answered_with_a_path_that_exists_or_none(words: list[str], here: Path) -> None:
    with raises_code("BL107", names=words[0].partition("=")[0]) as error:
        main([*words, "dry_run=true"])
    offered = re.findall(r"([\w.]+)=", str(error.value).replace("path=value", ""))
    assert set(offered) <= {*known_paths(), *groups()}


def test_a_value_that_cannot_be_read_is_told_without_the_names_of_the_parser() -> None:
    message = refusal("optim.name=[adam", code="BL106", names=("optim.name: ", "'[adam'"))
    assert "Exception" not in message


def test_a_list_that_is_too_long_or_too_short_is_told_the_bound() -> None:
    groups = ",".join(f"sg-{n}" for n in range(6))
    path = "backend.vpc.security_groups"
    refusal(f"{path}=[{groups}]", code="BL103", names=(f"{path}: ", "at most 5"))
    refusal("serving.allow_urls=[]", code="BL103", names=("serving.allow_urls: ", "at least 1"))


def test_a_name_of_nothing_is_a_problem_like_others() -> None:
    refusal('backend.tags={"":"x"}', code="BL106", names="backend.tags")


@pytest.mark.parametrize("value", ["~/photos", "/x/Meine Fotos/Übung ß"])
def test_a_folder_needs_no_quotes_of_hydras(value: str) -> None:
    config = validate(load(["experiment=resnet34", "data=image_folder", f"data.root={value}"]))
    assert config.data.root == os.path.expanduser(value)


@pytest.mark.parametrize("words", ["optim.lr = 0.1", "optim.lr =0.1", "optim.lr= 0.1"])
@pytest.mark.parametrize("grid", [[], ["-m"]], ids=["run", "grid"])
def test_spaces_around_the_sign_are_one_problem(words: str, grid: list[str], here: Path) -> None:
    with pytest.raises(ConfigError) as error:
        main([*grid, "experiment=resnet34_hpo", *words.split(), "dry_run=true"])
    assert str(error.value).splitlines() == [
        "config: 1 problem",
        f"  {words}: write it without spaces: optim.lr=0.1",
    ]


def test_a_folder_that_the_shell_took_apart_is_put_together_in_quotes() -> None:
    words = ["data=image_folder", "data.root=/x/Meine", "Fotos/Übung", "ß", "optim.lr=0.1"]
    message = refusal(*words, code="BL106")
    assert message.splitlines() == [
        "config: 1 problem",
        """  data.root=/x/Meine Fotos/Übung ß: has spaces; quote it: 'data.root="/x/Meine Fotos/Übung ß"'""",  # noqa: E501
    ]
    meant = "did you mean experiment=resnet34_hpo?"
    refusal("data.root=/x", "resnet34_hpo", code="BL106", names=meant)


def test_the_quotes_that_the_hint_asks_for_let_a_home_folder_be_given(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for breed in ("beagle", "whippet"):
        folder = here / "photos" / breed
        folder.mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    monkeypatch.setenv("HOME", str(here))
    # The shell leaves ~ alone inside a word, so nobody else would resolve it.
    assert main(["data=image_folder", 'data.root="~/photos"', "dry_run=true"]) == 0
    assert "2 classes; 4 train, 2 valid, 2 test" in capsys.readouterr().out


@pytest.mark.parametrize("step", [0.5, 1.5, 16.5])
def test_a_step_between_integers_is_an_integer(step: float, refuse: Refuse) -> None:
    (line,) = refuse({"tuner.space": {"data.batch_size": {"low": 16, "high": 64, "step": step}}})
    assert line.startswith(f"tuner.space.data.batch_size.step: got {step}")
    assert "whole number" in line


def test_an_unresolved_reference_in_a_grid_is_a_message_like_any_other(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["launch"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    try:
        code, message = main(["-m", "optim.lr=${nowhere},0.1", "dry_run=true"]), ""
    except BreedlabError as error:
        code, message = error.exit_code, str(error)
    told = capsys.readouterr().err + message
    assert code != 0
    assert "optim.lr" in told
    assert "nowhere" in told
    assert "Traceback" not in told
