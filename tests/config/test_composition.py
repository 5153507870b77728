"""What is kept of a config between two that are composed: it has to be what Hydra itself
composes."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pytest
from codes import raises_code
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from breedlab.config import composition
from breedlab.config.compose import load
from breedlab.config.composition import composed
from breedlab.config.yaml_folders import config_folder


def outcome(compose, words: list[str]) -> object:
    """What words compose to, or what is said of them."""
    try:
        return OmegaConf.to_container(compose(words), resolve=False)
    except Exception as refusal:  # Hydra's errors share no base class
        return type(refusal), str(refusal), str(refusal.__cause__)


def by_hydra(words: list[str]) -> object:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return hydra_compose("config", overrides=words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["experiment=quickstart"],
        ["optim.lr=0.5", "model=efficientnet_lite0", "experiment=quickstart", "model.dropout=0.1"],
        ["seed=1", "seed=2", "name=a b"],
        ["plugins=[one,two]", "data.mean=[0.1,0.2,0.3]"],
        ["+data.new=1", "++data.new=2", "~optim.lr", "~tuner"],
        ["model={name: mine}", "optim=sgd", "optim.lr=null"],
        ["runs_dir='${oc.env:HOME}'", "name=${runs_dir}"],
        ["optim.lr=0.1,0.2"],
        ["optim.lr=["],
        ["optim.none.there=1"],
        ["optim.lr.deeper=1"],
        ["+optim.lr=1"],
        ["~optim.missing"],
        ["~optim.lr=17"],
        ["model=nothing"],
        ["modelx=resnet50"],
        ["model@data=resnet34"],
        ["hydra.run.dir=elsewhere", "seed=3"],
        ["hydra/job_logging=default"],
        ["data=[image_folder,dog_breeds]"],
    ],
    ids=" ".join,
)
def test_words_compose_as_hydra_composes_them(words: list[str], cache: Path) -> None:
    expected = outcome(by_hydra, words)
    for _ in ("by Hydra", "from the process"):
        assert outcome(lambda words: composed(words, "config"), words) == expected
    composition._of_files.cache_clear()
    assert outcome(lambda words: composed(words, "config"), words) == expected  # from the disk


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    composition._of_files.cache_clear()
    return tmp_path / "cache" / "breedlab" / "configs"


def test_the_next_process_does_not_ask_hydra_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["experiment=quickstart", "seed=3"]
    before = OmegaConf.to_container(composed(words, "config"))
    assert len(list(cache.iterdir())) == 1
    composition._of_files.cache_clear()
    monkeypatch.setattr(hydra, "compose", None)
    assert OmegaConf.to_container(composed(words, "config")) == before


@pytest.mark.parametrize("damage", [b"", b'{"seed": 1', b"\xff\xfe"])
def test_a_damaged_file_of_the_cache_is_not_believed(cache: Path, damage: bytes) -> None:
    words = ["experiment=quickstart"]
    before = OmegaConf.to_container(composed(words, "config"))
    (file,) = cache.iterdir()
    file.write_bytes(damage)
    composition._of_files.cache_clear()
    assert OmegaConf.to_container(composed(words, "config")) == before
    assert json.loads(file.read_text())  # and it is made again


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.parent.parent.mkdir()
    cache.parent.touch()
    assert composed(["experiment=quickstart"], "config").name == "quickstart"


def test_old_files_of_the_cache_are_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition, "_MOST_KEPT", 2)
    for name in ("quickstart", "resnet34", "resnet34_hpo"):
        composed([f"experiment={name}"], "config")
    assert len(list(cache.iterdir())) == 2


def test_a_composed_config_may_be_changed() -> None:
    first = composed(["experiment=quickstart"], "config")
    before = OmegaConf.to_container(first)
    first.optim.lr = 17
    assert OmegaConf.to_container(composed(["experiment=quickstart"], "config")) == before


def test_a_file_that_is_edited_counts_at_once(tmp_path: Path) -> None:
    file = tmp_path / "optim" / "mine.yaml"
    file.parent.mkdir()
    words = [f'hydra.searchpath=["{tmp_path}"]', "optim=mine"]
    for lr in (1, 2):  # of as many bytes
        file.write_text(f"defaults: [adam]\nlr: {lr}\n")
        assert composed(words, "config").optim.lr == lr


def test_a_file_beside_an_equal_one_is_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / name / "optim"
        folder.mkdir(parents=True)
        (folder / "mine.yaml").write_text(f"defaults: [base_{name}]\n")
        (folder / f"base_{name}.yaml").write_text(f"defaults: [adam]\nlr: {len(name)}.5\n")
        words = [f'hydra.searchpath=["{tmp_path / name}"]', "optim=mine"]
        assert composed(words, "config").optim.lr == 3.5


def test_the_environment_may_choose_a_file_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(
        '# @package _global_\ndefaults: [{override /optim: "${oc.env:BREEDLAB_OPTIM}"}]\n'
    )
    words = [f'hydra.searchpath=["{tmp_path}"]', "experiment=mine"]
    for name in ("adam", "sgd"):
        monkeypatch.setenv("BREEDLAB_OPTIM", name)
        assert composed(words, "config").optim.name == name


def test_a_typo_has_hydra_read_the_files_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(
        hydra, "compose", lambda *args, **more: read.append(more) or hydra_compose(*args, **more)
    )
    with raises_code("BL106", names="optim.lr"):
        load(["experiment=resnet34", "tuner=random", "seed=4242", "name=typo", "optim.lr=["])
    assert len(read) <= 1
