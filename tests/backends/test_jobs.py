"""Jobs executed as SageMaker executes them: by AWS's training toolkit and by SDK v3's start
scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from containers import Container, Ended, Service, needs_namespace
from sagemaker_account import Account

from breedlab.backends.sagemaker.jobs import follow
from breedlab.backends.sagemaker.jobs.hyperparameters import decode
from breedlab.cli import launch
from breedlab.tuning.trial_log import read_trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.aws_stack,
    needs_namespace,
]

Words = Callable[..., list[str]]


@pytest.fixture
def cloud(cloud: Words, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Words:
    """As everywhere here, on the images that local runs are compared on; jobs are asked after more
    often than AWS likes."""
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.2)
    return lambda *more: cloud(f"data.root={image_folder}", *more)


def test_the_whole_circle_ends_where_the_local_backend_does(
    container: Container, account: Account, cloud: Words, words: Words, here: Path
) -> None:
    search = ["debugger=default", "debugger.every=2", "tuner.max_epochs=2", "trainer.max_epochs=3"]
    search += ["monitor.metric=valid/loss", "monitor.mode=min"]
    with Service(account, container) as service:
        code = launch.main(cloud("tuner=random", "tuner.trials=2", "name=circle", *search))
    assert code == 0
    fetched = Path("runs/latest").resolve()

    # Two trials under the toolkit, then the best of them under the start scripts.
    assert account.created() == ["CreateHyperParameterTuningJob", "CreateTrainingJob"]
    *trials, final = service.ended.values()
    assert len(trials) == 2
    assert all("sagemaker-training-toolkit" in trial.log[0] for trial in trials)
    assert (
        "Running Basic Script driver" in final.log[0]
        and "sagemaker-training-toolkit" not in final.log[0]
    )
    (tuning,) = account.tuning.values()
    best = decode(tuning["BestTrainingJob"]["TunedHyperParameters"])
    assert set(best) == {"optim.lr", "data.batch_size"}

    # The same on this machine, the values found given as the only ones to search.
    space = (
        f"tuner.space={{optim: {{lr: [{best['optim.lr']!r}]}}, data: {{batch_size:"
        f" [{best['data.batch_size']}]}}}}"
    )
    assert (
        launch.main(
            words(
                "experiment=quickstart", "profiler=none", "name=here", "tuner=grid", space, *search
            )
        )
        == 0
    )
    local = Path("runs/latest").resolve()

    assert names(fetched) - names(local) == {"job.json"}  # the record of where it ran
    # Which trial of its own search was trained, and what that had to beat.
    assert names(local) - names(fetched) == {"training.json", "baseline.json"}
    assert weights(fetched) == weights(local)
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (local, fetched))
    assert (
        theirs["monitor"] == ours["monitor"]
        and theirs["test"]["metrics"] == ours["test"]["metrics"]
    )
    the_image_was_left_alone(container, trials[0])
    left = trials[0].tree[0] / "output" / "data" / next(iter(service.ended))
    tensors_can_be_read(left / "debug")
    trials_stop_after_training(trials[0], left)
    assert (fetched / "trials" / "1" / "debug").is_dir() and any(
        fetched.glob("tensorboard/trial_001/events*")
    )
    assert (final.tree[0] / "model" / "model.safetensors").is_file()
    assert (final.tree[0] / "model" / "code" / "inference.py").is_file()


def the_image_was_left_alone(container: Container, trial: Ended) -> None:
    """The toolkit's protobuf and the image's torch are what they were; smdebug is there."""
    from importlib import metadata

    site = next(container.bin.parent.glob("lib/python3*/site-packages"))
    there = {
        d.metadata["Name"].lower(): d.version for d in metadata.distributions(path=[str(site)])
    }
    assert there["smdebug"] == "1.0.34"
    assert int(there["protobuf"].split(".")[0]) >= 6
    assert not {"torch", "torchvision", "triton"} & set(there)  # lent, and not installed again
    assert "Uninstalling protobuf" not in trial.log[0] and "Uninstalling torch" not in trial.log[0]


def trials_stop_after_training(trial: Ended, left: Path) -> None:
    """No test, no export, no report: of a trial there is its objective, its curves and its
    tensors."""
    assert "epoch 2/2" in trial.log[0]
    assert not re.search(r"^› (Test|Export)", trial.log[0], re.MULTILINE)
    assert {path.name for path in left.iterdir()} == {"tensorboard", "debug"}
    assert not list(trial.checkpoints.iterdir()) and not list((trial.tree[0] / "model").iterdir())


def tensors_can_be_read(debug: Path) -> None:
    from smdebug.trials import create_trial

    (folder,) = {path.parent for path in debug.rglob("collections")}
    trial = create_trial(str(folder))
    losses = trial.tensor_names(collection="losses")
    assert losses and all(len(trial.tensor(name).steps()) > 1 for name in losses)


def names(run: Path) -> set[str]:
    """What a run directory holds, without the numbers in the names of files."""
    return {path.name for path in run.iterdir()}


def weights(run: Path) -> dict[str, tuple[Any, ...]]:
    """Every weight of a run's best checkpoint, to the bit."""
    state = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)[
        "state_dict"
    ]
    return {
        name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes())
        for name, tensor in state.items()
    }


def test_what_a_person_can_mend_is_the_failure_reason(
    container: Container, account: Account, cloud: Words, here: Path
) -> None:
    """Under the toolkit and under the start scripts, both of which have a word of their own for
    it."""
    launch.main(cloud("tuner=random", "tuner.trials=1", "backend.wait=false", "name=wrong"))
    launch.main(cloud("tuner=none", "backend.wait=false", "name=wrong"))
    (tuning,), (training,) = (
        account.sent(f"Create{kind}Job") for kind in ("HyperParameterTuning", "Training")
    )
    wrong = {"optim__lr": "fast", "optim__momentun": "0.5"}
    toolkit = container.run("wrong-1", tuning["TrainingJobDefinition"], wrong)
    scripts = container.run("wrong-2", {**training, "HyperParameters": wrong})
    for ended in (toolkit, scripts):
        assert ended.code != [0]
        assert ended.failure is not None
        assert ended.failure.splitlines() == [
            "hyperparameters: 2 problems",
            "  optim__lr: got 'fast'; expected a number",
            "  optim__momentun: unknown name; did you mean optim__momentum?",
        ]
        assert "Traceback" not in ended.log[0].partition("hyperparameters: 2 problems")[0]


def test_a_job_that_sigterm_ends_goes_on_to_the_same_weights(
    container: Container, account: Account, cloud: Words, words: Words, here: Path
) -> None:
    steps = 50  # an epoch: 100 images, 2 a batch; live, so that they take their time
    slow = [
        "cache.mode=off",
        "trainer.max_epochs=3",
        "tuner.max_epochs=3",
        "optim.lr=0.001",
        "data.batch_size=2",
    ]
    slow += ["debugger=none"]  # whose hundreds of files take the tests' S3 longer than the training
    launch.main(
        cloud(
            "tuner=random",
            "tuner.trials=1",
            "backend.spot=true",
            "backend.wait=false",
            "name=spot",
            *slow,
        )
    )
    (asked,) = account.sent("CreateHyperParameterTuningJob")
    definition, values = asked["TrainingJobDefinition"], {"optim__lr": "0.01"}
    running = container.start("spot-1", definition, values)
    running.wait_for("epoch 1/3")
    running.terminate()
    stopped = running.wait()
    last = stopped.checkpoints / "spot-1" / "checkpoints" / "last.ckpt"
    done = torch.load(last, map_location="cpu", weights_only=True)["global_step"]
    assert steps < done < 3 * steps and done % steps
    assert stopped.failure is None

    again = container.run("spot-1", definition, values)  # its checkpoints come back from S3
    assert again.code == [0] and "epoch 1/3" not in again.log[0] and "epoch 3/3" in again.log[0]
    assert (
        launch.main(
            words("experiment=quickstart", "profiler=none", "tuner=none", *slow, "optim.lr=0.01")
        )
        == 0
    )
    assert weights(again.checkpoints / "spot-1") == weights(Path("runs/latest"))


@pytest.mark.parametrize("processes", [1, 2], ids=["one process", "torchrun"])
def test_a_job_whose_first_process_is_told_to_stop_goes_on_to_the_same_weights(
    processes: int, container: Container, account: Account, cloud: Words, here: Path
) -> None:
    """As AWS stops a training job: SIGTERM to the container's first process, and the container ends
    with that."""
    steps = 50 // processes
    slow = [
        "cache.mode=off",
        "trainer.max_epochs=3",
        "optim.lr=0.001",
        f"data.batch_size={2 * processes}",
    ]
    slow += ["debugger=none"]
    launch.main(
        cloud(
            "backend.spot=true",
            "backend.wait=false",
            f"backend.processes={processes}",
            "name=told",
            *slow,
        )
    )
    (asked,) = account.sent("CreateTrainingJob")
    running = container.start("told-1", asked)
    running.wait_for("epoch 1/3")
    assert ("Running Torchrun Driver" in running.log()) == (processes > 1)
    running.terminate()
    stopped = running.wait()
    last = stopped.checkpoints / "told-1" / "checkpoints" / "last.ckpt"
    done = torch.load(last, map_location="cpu", weights_only=True)["global_step"]
    assert steps < done < 3 * steps and done % steps
    assert stopped.failure is None and "Traceback" not in stopped.log[0]

    if processes == 1:  # how one goes on is in the test before
        return
    again = container.run("told-1", asked)
    assert again.code == [0] and "epoch 1/3" not in again.log[0] and "epoch 3/3" in again.log[0]
    unbroken = container.run("told-2", asked)
    assert unbroken.code == [0] and "epoch 1/3" in unbroken.log[0]
    assert weights(again.checkpoints / "told-1") == weights(unbroken.checkpoints / "told-2")


def test_one_job_searches_and_trains_the_best(
    container: Container, account: Account, cloud: Words, here: Path
) -> None:
    few = [
        "tuner=random",
        "tuner.trials=3",
        "tuner.max_epochs=1",
        "trainer.max_epochs=1",
        "name=one",
    ]
    with Service(account, container) as service:
        assert launch.main(cloud("backend.trials=one_job", *few)) == 0
    assert account.created() == ["CreateTrainingJob"]
    (ended,) = service.ended.values()
    passes = re.findall(r"activations of the frozen part: [\d,]+ in ", ended.log[0])
    assert len(passes) == 1, "for all trials and the best"
    run = Path("runs/latest")
    trials = sorted(
        (json.loads(path.read_text()) for path in run.glob("trials/*/trial.json")),
        key=itemgetter("number"),
    )
    assert len(trials) == 3 and (run / "study.db").is_file()
    # What following it makes a table of is in the log, as the start scripts pass it on.
    rows = [row for line in ended.log[0].splitlines() if (row := read_trial(line))]
    assert [row.state for row in rows] == ["running", "complete"] * 3
    assert [row.objective for row in rows[1::2]] == pytest.approx(
        [t["objective"] for t in trials], abs=1e-4
    )
    assert [set(row.values) for row in rows] == [{"optim.lr", "data.batch_size"}] * 6
    assert json.loads((run / "metrics.json").read_text())["search"]["values"].keys() == {
        "optim.lr",
        "data.batch_size",
    }


def test_two_instances_train_one_model_together(
    container: Container, account: Account, cloud: Words, words: Words, here: Path
) -> None:
    """Under the start scripts' torchrun and under the toolkit's; with what one process would have
    come to."""
    two = ["backend.instance_count=2", "backend.processes=1", "backend.wait=false", "name=two"]
    same = [
        "data.batch_size=32",
        "trainer.max_epochs=2",
        "tuner.max_epochs=2",
        "trainer.precision=fp32",
    ]
    # which all ranks have to bear
    same += ["model.dropout=0.0", "optim.lr=0.001", "debugger=losses"]
    launch.main(cloud("tuner=none", *two, *same))
    launch.main(cloud("tuner=random", "tuner.trials=1", *two, *same))
    (tuning,), (training,) = (
        account.sent(f"Create{kind}Job") for kind in ("HyperParameterTuning", "Training")
    )
    assert launch.main(words("experiment=quickstart", "profiler=none", "tuner=none", *same)) == 0
    alone = json.loads(Path("runs/latest/metrics.json").read_text())
    regex = tuning["TrainingJobDefinition"]["AlgorithmSpecification"]["MetricDefinitions"][0][
        "Regex"
    ]
    for name, ended in {
        "two-1": container.run("two-1", training),
        "two-2": container.run(
            "two-2", tuning["TrainingJobDefinition"], {"data__batch_size": "32"}
        ),
    }.items():
        assert ended.code == [0, 0], "\n".join(ended.log)
        assert all("torchrun" in log for log in ended.log)
        first, second = ended.tree
        if name == "two-1":
            together = json.loads((first / "checkpoints" / name / "metrics.json").read_text())
            assert together["monitor"]["best"] == pytest.approx(alone["monitor"]["best"], rel=1e-3)
            assert together["test"]["metrics"]["loss"] == pytest.approx(
                alone["test"]["metrics"]["loss"], rel=1e-3
            )
            assert (first / "model" / "model.safetensors").is_file()
        else:  # a trial stops after training, and has said its objective
            objective = float(re.findall(regex, ended.log[0])[-1])
            assert objective == pytest.approx(alone["monitor"]["best"], abs=1e-3)
        # What both wrote would be mixed in S3.
        assert not [path for path in (second / "checkpoints").rglob("*") if path.is_file()]
        assert not list((second / "model").iterdir())
