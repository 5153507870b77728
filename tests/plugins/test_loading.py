"""Plugins are imported by name, from the config only; what they bring is as closed and checked as
the rest."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from codes import Names, check_names, raises_code
from strangers import AUGMENTATION, Write

from breedlab.backends.sagemaker.jobs.hyperparameters import decode
from breedlab.backends.sagemaker.jobs.source import write_source
from breedlab.cli.launch import main
from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.config.validate import known_paths
from breedlab.data.augmentations import Built
from breedlab.data.module import ImageData
from breedlab.data.source import obtain
from breedlab.data.transforms import EvalTransform
from breedlab.errors import ConfigError
from breedlab.registry import AUGMENTATIONS, REGISTRIES, Registry

Words = Callable[..., list[str]]
BLANK = ("data.augment=blank", "model.freeze=none")


def read(words: list[str]) -> Config:
    return validate(load(words))


def refusal(words: list[str], code: str = "") -> list[str]:
    with pytest.raises(ConfigError) as error:
        read(words)
    assert not code or error.value.code == code, str(error.value)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_the_settings_of_a_plugin_have_a_section_beside_what_chooses_it(
    package: Write, words: Words
) -> None:
    config = read(words(package(AUGMENTATION), *BLANK))
    assert config.model_dump()["data"]["blank"] == {"side": 8}
    config = read(words("plugins=[my_package]", *BLANK, "data.blank.side=5"))
    assert config.model_dump()["data"]["blank"] == {"side": 5}
    assert validate(config.model_dump(), recorded=True) == config


def test_all_problems_of_a_plugins_settings_are_told_at_once(package: Write, words: Words) -> None:
    lines = refusal(
        words(package(AUGMENTATION), "data.augment=blnk", "data.blank.side=100", "data.blank.sid=3")
    )
    assert lines == [
        "data.blank.sid: unknown name; did you mean data.blank.side?",
        (
            "data.augment: got 'blnk'; expected one of none, basic, trivial, randaug, blank; did"
            " you mean blank?"
        ),
        "data.blank.side: got 100; expected a number of at most 64",
    ]


def test_a_search_varies_what_a_plugin_brings_and_is_checked(package: Write, words: Words) -> None:
    search = ["tuner=random", "tuner.trials=2", *BLANK]
    config = read(words(package(AUGMENTATION), *search, "tuner.space.data.blank.side=[2,4]"))
    assert config.tuner.space["data"]["blank"] == {"side": [2, 4]}
    lines = refusal(words("plugins=[my_package]", *search, "tuner.space.data.blank.side=[2,400]"))
    assert lines == ["tuner.space.data.blank.side: got 400; expected a number of at most 64"]


def test_a_setting_of_a_plugin_travels_as_a_hyperparameter(package: Write, words: Words) -> None:
    read(words(package(AUGMENTATION), *BLANK))
    assert decode({"data__blank__side": "3"}) == {"data.blank.side": 3}


def test_an_experiment_of_ones_own_names_its_plugins(
    package: Write, here: Path, capsys: Any
) -> None:
    package(AUGMENTATION)
    file = here / "own" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# @package _global_\ndefaults: [quickstart]\nname: mine\nplugins: [my_package]\n"
        "data: {augment: blank, blank: {side: 7}}\ncache: {views: 2}\n"
    )
    assert (
        main(["--config-dir", "own", "experiment=mine", "data.blank.side=9", "--cfg", "job"]) == 0
    )
    assert "  blank:\n    side: 9\n" in capsys.readouterr().out
    assert "data.blank.side" in known_paths()


def test_a_grid_varies_what_a_plugin_brings(
    package: Write, words: Words, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["launch"])
    grid = words(package(AUGMENTATION), *BLANK, "data.blank.side=3,5", "dry_run=true", "name=grid")
    assert main(["-m", *grid]) == 0
    assert [
        line[-20:] for line in capsys.readouterr().out.splitlines() if line.startswith("──")
    ] == [
        "++data.blank.side=3 name=grid"[-20:],
        "++data.blank.side=5 name=grid"[-20:],
    ]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a_library_that_is_not_there", "a_library_that_is_not_there"),
        ("\n1 / 0", ("ZeroDivisionError", ".py:2")),
        ("def", "SyntaxError"),
        (AUGMENTATION.replace('"blank"', '"basic"'), "breedlab.data.augmentations.Basic"),
        (AUGMENTATION.replace('"blank"', '"a.b"'), ("'a.b'", "'_'")),
        (
            AUGMENTATION.replace(
                "Annotated[int, Field(ge=1, le=64)] = 8", "tuple[int, int] = 1, 2"
            ),
            ("augmentation 'blank'", "side", "YAML"),
        ),
        (
            AUGMENTATION.replace(
                "Annotated[int, Field(ge=1, le=64)] = 8",
                "Annotated[tuple[int, ...], Field(min_length=1)] = (1, 2)",
            ),
            ("augmentation 'blank'", "side", "YAML"),
        ),
        (
            AUGMENTATION.replace(
                "Annotated[int, Field(ge=1, le=64)] = 8", "set[int] | None = None"
            ),
            ("augmentation 'blank'", "side", "YAML"),
        ),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_told_in_one_line(
    source: str, names: Names, package: Write, words: Words
) -> None:
    (line,) = refusal(words(package(source)), "BL108")
    assert line.startswith("plugins.0: my_package")
    check_names(line, names)


@pytest.mark.parametrize("conversion", ["Field(strict=False)", "BeforeValidator(tuple)"])
def test_a_setting_that_makes_its_type_of_what_yaml_holds_is_taken(
    conversion: str, package: Write, words: Words
) -> None:
    source = AUGMENTATION.replace(
        "Annotated[int, Field(ge=1, le=64)] = 8",
        f"Annotated[tuple[int, ...], {conversion}] = (1, 2)",
    ).replace("import Field", "import BeforeValidator, Field")
    config = read(words(package(source), *BLANK, "data.blank.side=[3,4]"))
    assert AUGMENTATIONS.chosen(config.data).side == (3, 4)


def test_a_setting_in_the_way_of_a_component_is_told(package: Write, words: Words) -> None:
    named = package(AUGMENTATION.replace('"blank"', '"mixup"'))
    with raises_code("BL108", names=("'mixup'", "my_package", "data.mixup")):
        read(words(named))


def test_what_a_missing_plugin_would_bring_is_not_told_as_unknown(words: Words) -> None:
    (line,) = refusal(words("plugins=[my_packge]", "data.augment=blank", "data.blank.side=3"))
    assert line.startswith("plugins.0: ")
    tree = {**load(words()), "plugins": ["my_packge"]}
    tree["data"] = {**tree["data"], "augment": "blank", "blank": {"side": 3}}
    with raises_code("BL108", names="plugins.0") as error:
        validate(tree, recorded=True)
    assert "data." not in str(error.value)


def test_a_plugin_that_is_not_there_is_told_where_it_was_looked_for(
    here: Path, words: Words
) -> None:
    (line,) = refusal(words("plugins=[my_packge]"))
    assert line.startswith(
        f"plugins.0: no package 'my_packge' is in the working folder ({here}) or installed"
    )


def test_a_plugin_travels_in_the_source_of_a_sagemaker_job(
    package: Write, words: Words, here: Path
) -> None:
    config = read(words(package(AUGMENTATION), *BLANK))
    (here / "my_package" / "requirements.txt").write_text("# what it needs\neinops==0.8.0\n")
    source = here / "source"
    source.mkdir()
    write_source(source, config)
    assert (source / "src" / "my_package" / "__init__.py").read_text() == AUGMENTATION
    assert "einops==0.8.0" in (source / "requirements.txt").read_text().splitlines()


JOB = """
import sys
from pathlib import Path
from breedlab.backends.sagemaker.jobs.job import read_config
from breedlab.config import validate
source = Path(sys.argv[1])
config = validate(read_config(source), recorded=True)
print(config.data.augment, config.data.blank.side, sys.modules["my_package"].__file__)
"""


def test_a_job_imports_the_plugin_from_its_source(package: Write, words: Words, here: Path) -> None:
    config = read(words(package(AUGMENTATION), *BLANK, "data.blank.side=3"))
    source, elsewhere = here / "source", here / "elsewhere"
    source.mkdir()
    elsewhere.mkdir()
    write_source(source, config)
    command = [sys.executable, "-c", JOB, str(source)]
    environment = {**os.environ, "PYTHONPATH": str(source / "src")}
    said = subprocess.run(
        command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == ["blank", "3", str(source / "src" / "my_package" / "__init__.py")]


def test_a_loading_process_that_is_spawned_gets_the_augmentation(
    package: Write, words: Words
) -> None:
    """On macOS, and for the trials of `tuner.parallel`, data sets are pickled; what `build` returns
    cannot be."""
    read(words(package(AUGMENTATION), *BLANK))
    sent = Built(AUGMENTATIONS.get("blank")(side=3))
    image = torch.full((3, 8, 8), 9, dtype=torch.uint8)
    sent(image.clone())
    arrived = pickle.loads(pickle.dumps(sent))
    assert arrived(image.clone())[:, :4, :4].count_nonzero() == 3 * (16 - 9)


def test_training_sees_the_images_that_a_plugin_makes(
    package: Write, words: Words, image_folder: Path
) -> None:
    config = read(words(package(AUGMENTATION), *BLANK, "data.blank.side=5", "data.num_workers=2"))
    transform = EvalTransform(36, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    data = ImageData(obtain(config), config.data, transform, 1, None)
    images, _ = next(iter(data.train_dataloader()))
    assert torch.equal(images[:, :, :5, :5], torch.zeros_like(images[:, :, :5, :5]))
    assert images[:, :, 5:, 5:].float().mean() > 10


ENGINE = """
from breedlab.registry import ENGINES
from breedlab.serving.engine_kinds import EngineKind


@ENGINES.register("plain")
class Plain(EngineKind):
    def export(self, network, images, file, precision): ...
    def load(self, file, precision): ...
"""


def test_a_precision_that_a_plugins_engine_lacks_is_refused_and_not_replaced(
    package: Write, words: Words
) -> None:
    (line,) = refusal(words(package(ENGINE), "serving.engine=plain", "serving.precision=int8"))
    assert (
        line
        == "serving.precision: got 'int8', which is openvino's; expected auto or fp32 with plain"
    )


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_a_name_that_nobody_registered_is_never_something_else(registry: Registry[Any]) -> None:
    with raises_code("BL103", names=(registry.kind, "'not_there'", *registry.names())):
        registry.get("not_there")
