"""Jobs executed as SageMaker executes them: by AWS's training toolkit and by SDK v3's start scripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from containers import Container, Ended, Service, build_image, can_run
from sagemaker_account import Account

from breedlab import launch
from breedlab.hyperparameters import decode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not can_run(), reason="needs Linux and root: /opt/ml is mounted in a namespace of its own"),
]

Words = Callable[..., list[str]]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of the container's environment. BREEDLAB_TEST_IMAGE names one that was made before."""
    if made := os.environ.get("BREEDLAB_TEST_IMAGE"):
        return Path(made, "bin")
    return build_image(tmp_path_factory.mktemp("image") / "env")


@pytest.fixture
def container(image: Path, account: Account, tmp_path: Path) -> Container:
    folder = tmp_path / "containers"
    folder.mkdir()
    return Container(image, folder, account.url)


def test_the_whole_circle_ends_where_the_local_backend_does(
    container: Container, account: Account, cloud: Words, words: Words, here: Path
) -> None:
    search = ["debugger=default", "debugger.every=2", "tuner.max_epochs=2", "trainer.max_epochs=3"]
    with Service(account, container) as service:
        code = launch.main(cloud("tuner=random", "tuner.trials=2", "name=circle", *search))
    assert code == 0
    fetched = Path("runs/latest").resolve()

    # Two trials under the toolkit, then the best of them under the start scripts.
    assert account.created() == ["CreateHyperParameterTuningJob", "CreateTrainingJob"]
    *trials, final = service.ended.values()
    assert len(trials) == 2
    assert all("sagemaker-training-toolkit" in trial.log[0] for trial in trials)
    assert "Running Basic Script driver" in final.log[0] and "sagemaker-training-toolkit" not in final.log[0]
    (tuning,) = account.tuning.values()
    best = decode(tuning["BestTrainingJob"]["TunedHyperParameters"])
    assert set(best) == {"optim.lr", "data.batch_size"}

    # The same on this machine, the values found given as the only ones to search.
    space = f"tuner.space={{optim: {{lr: [{best['optim.lr']!r}]}}, data: {{batch_size: [{best['data.batch_size']}]}}}}"
    assert launch.main(words("experiment=quickstart", "profiler=none", "name=here", "tuner=grid", space, *search)) == 0
    local = Path("runs/latest").resolve()

    assert names(fetched) - names(local) <= {"sagemaker.json"}
    assert names(local) - names(fetched) == {"study.db"}  # Optuna's; a tuning job's trials are in trials/
    assert weights(fetched) == weights(local)
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (local, fetched))
    assert theirs["monitor"] == ours["monitor"] and theirs["test"]["metrics"] == ours["test"]["metrics"]
    objective = tuning["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"]
    assert objective == pytest.approx(ours["search"]["objective"], rel=1e-5)

    the_image_was_left_alone(container, trials[0])
    tensors_can_be_read(trials[0].checkpoints / next(iter(service.ended)) / "debug")
    assert (final.tree[0] / "model" / "model.safetensors").is_file()
    assert (final.tree[0] / "model" / "code" / "inference.py").is_file()


def the_image_was_left_alone(container: Container, trial: Ended) -> None:
    """The toolkit's protobuf and the image's torch are what they were; smdebug is there."""
    from importlib import metadata

    site = next(container.bin.parent.glob("lib/python3*/site-packages"))
    there = {d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=[str(site)])}
    assert there["smdebug"] == "1.0.34"
    assert int(there["protobuf"].split(".")[0]) >= 6
    assert not {"torch", "torchvision", "triton"} & set(there)  # lent, and not installed again
    assert "Uninstalling protobuf" not in trial.log[0] and "Uninstalling torch" not in trial.log[0]


def tensors_can_be_read(debug: Path) -> None:
    from smdebug.trials import create_trial

    (folder,) = {path.parent for path in debug.rglob("collections")}
    trial = create_trial(str(folder))
    losses = trial.tensor_names(collection="losses")
    assert losses and all(len(trial.tensor(name).steps()) > 1 for name in losses)


def names(run: Path) -> set[str]:
    """What a run directory holds, without the numbers in the names of files."""
    return {path.name for path in run.iterdir()}


def weights(run: Path) -> dict[str, list[Any]]:
    state = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    return {name: tensor.tolist() for name, tensor in state.items()}
