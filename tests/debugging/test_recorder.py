"""The hook on real trainings: what it records, that it changes nothing, and that nothing of it
stops a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import final_training
import lightning
import numpy as np
import pytest
import torch
from smdebug import modes
from smdebug.trials import create_trial

from breedlab.config import Config
from breedlab.data.module import ImageData
from breedlab.data.sample import write_sample
from breedlab.debugging import recorder
from breedlab.debugging.hook import RunHook
from breedlab.debugging.reader import TensorLog, losses, opened, registrations
from breedlab.debugging.recorder import Recorder
from breedlab.models.classifier import Classifier
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.observers import observers
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]
# 100 and 24 images in batches of 16; from the cache 24 in one
EPOCHS, BATCHES, VALID_BATCHES = 2, 7, 2
LOSS = "CrossEntropyLoss_output_0"
RESNET = "model.name=resnet18"
RECORDED = (RESNET, "debugger=default", "debugger.every=3")
LIVE = ("model.freeze=none", "trainer.ema=0.9", "data.mixup=0.2")


def context_for(config: Config) -> TrainingContext:
    return prepare(config, checked_images(config))


def train(
    context: TrainingContext, config: Config, run: Path, *callbacks: lightning.Callback
) -> tuple[Classifier, Fitted]:
    return final_training.train(context, config, run, *observers(config, run), *callbacks)


def trained(configure: Configure, run: Path, *more: str) -> Path:
    config = configure(*RECORDED, *more)
    train(context_for(config), config, run)
    return run


def state(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(
        run / "checkpoints" / "last.ckpt", weights_only=True
    )["state_dict"]
    return found


def same(one: Path, other: Path) -> bool:
    first, second = state(one), state(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture(scope="module")
def head_run(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    """Only the head trains, on cached activations."""
    return trained(configure, tmp_path_factory.mktemp("runs") / "head")


@pytest.fixture(scope="module")
def live_run(tmp_path_factory: pytest.TempPathFactory, configure: Configure) -> Path:
    """Everything trains, with a moving average."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ImageData,
            "val_dataloader",
            lambda data: data.view_dataloader("valid", 0, batch_size=16),
        )
        return trained(configure, tmp_path_factory.mktemp("runs") / "live", *LIVE)


@pytest.mark.parametrize(("which", "valid"), [("head_run", 1), ("live_run", VALID_BATCHES)])
def test_the_loss_of_every_step_of_both_modes_is_there(
    which: str, valid: int, request: pytest.FixtureRequest
) -> None:
    trial = create_trial(str(request.getfixturevalue(which) / "debug" / "0"))
    tensor = trial.tensor(LOSS)
    assert tensor.steps(mode=modes.TRAIN) == list(range(EPOCHS * BATCHES))
    assert tensor.steps(mode=modes.EVAL) == list(range(EPOCHS * valid))
    values = [*tensor.values(mode=modes.TRAIN).values(), *tensor.values(mode=modes.EVAL).values()]
    # none is told twice
    assert len({float(value) for value in values}) == EPOCHS * (BATCHES + valid)


def test_smdebug_alone_reads_it_back_though_tensorboard_takes_none_of_it_for_runs(
    head_run: Path,
) -> None:
    assert not list(head_run.glob("debug/**/*tfevents*"))
    program = (
        "import sys; from smdebug import modes; from smdebug.trials import create_trial\n"
        "trial = create_trial(sys.argv[1])\n"
        "name, *_ = trial.tensor_names(collection='losses')\n"
        "print('breedlab' in sys.modules, *trial.tensor(name).values(modes.TRAIN).values())"
    )
    command = [sys.executable, "-c", program, str(head_run / "debug" / "0")]
    said = (
        subprocess.run(command, capture_output=True, text=True, check=True)
        .stdout.splitlines()[-1]
        .split()
    )
    assert said[0] == "False"
    assert [float(word) for word in said[1:]] == pytest.approx(
        [loss for _, loss in losses(head_run)["TRAIN"]]
    )


def test_losses_are_read_on_the_training_s_own_axis(head_run: Path) -> None:
    found = losses(head_run)
    assert [step for step, _ in found["TRAIN"]] == list(range(1, EPOCHS * BATCHES + 1))
    assert [step for step, _ in found["EVAL"]] == [7, 14]


def test_the_recorded_losses_are_those_that_lightning_logged(head_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(head_run / "tensorboard" / "final")).Reload()
    logged = {
        name: [event.value for event in events.Scalars(name)]
        for name in ("train/loss", "valid/loss")
    }
    found = losses(head_run)
    sizes = {"TRAIN": [16, 16, 16, 16, 16, 16, 4], "EVAL": [24]}
    for mode, name in (("TRAIN", "train/loss"), ("EVAL", "valid/loss")):
        batches = torch.tensor([loss for _, loss in found[mode]]).view(EPOCHS, -1)
        weights = torch.tensor(sizes[mode], dtype=torch.float)
        means = (batches * weights).sum(1) / weights.sum()
        assert means.tolist() == pytest.approx(logged[name], rel=1e-5)


def test_on_cached_activations_there_is_the_head_and_nothing_of_the_backbone(
    head_run: Path,
) -> None:
    names = create_trial(str(head_run / "debug" / "0")).tensor_names()
    assert {
        "Classifier_head.1.weight",
        "gradient/Classifier_head.1.weight",
        "head.2_output_0",
    } <= set(names)
    assert not [name for name in names if "backbone" in name]


def test_every_layer_that_trains_is_there_when_all_do(live_run: Path) -> None:
    tape = TensorLog(opened(live_run))
    # 0, 3, 6, 9, 12 of training; 2 of validation
    assert sorted(tape.saved("weights", "TRAIN")) == [0, 3, 6, 11, 14]
    expected = {name for name, _ in network_parameters(live_run)}
    assert {n.removeprefix("gradient/Classifier_") for n in tape.names("gradients")} == expected
    assert {n.removeprefix("Classifier_") for n in tape.names("weights")} == {
        n for n in expected if "weight" in n
    }
    relus = tape.names("relu_activations")
    assert "backbone.layer1.0.relu_output_0" in relus and "backbone.layer1.0.relu_output_1" in relus


def network_parameters(run: Path) -> list[tuple[str, torch.Tensor]]:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    own = {
        name.removeprefix("classifier."): t
        for name, t in state(run).items()
        if name.startswith("classifier.")
    }
    return [(name, tensor) for name, tensor in own.items() if not name.endswith(buffers)]


def test_reductions_are_those_of_the_tensors(configure: Configure, tmp_path: Path) -> None:
    kinds = "[min,max,mean,std,variance,sum,l1_norm,l2_norm,abs_min,abs_max,abs_mean,abs_std,zeros]"
    words = [f"debugger.collections.gradients={{reductions:{kinds},values:true}}"]
    words += [
        "debugger.collections.weights={reductions:[update],values:true,train:1}",
        "optim.name=sgd",
    ]
    run = trained(configure, tmp_path / "run", *words)
    tape, name = TensorLog(opened(run)), "gradient/Classifier_head.1.weight"
    whole = torch.from_numpy(tape.value(name, 3).copy())
    expected = {
        "min": whole.min(),
        "max": whole.max(),
        "mean": whole.mean(),
        "std": whole.std(),
        "variance": whole.var(),
        "sum": whole.sum(),
        "l1_norm": whole.norm(1),
        "l2_norm": whole.norm(2),
        "abs_min": whole.abs().min(),
        "abs_max": whole.abs().max(),
        "abs_mean": whole.abs().mean(),
        "abs_std": whole.abs().std(),
        "zeros": (whole == 0).float().mean(),
    }
    for reduction, value in expected.items():
        assert tape.reduction(name, 3, reduction) == pytest.approx(
            float(value), rel=1e-4, abs=1e-7
        ), reduction
    before, after = (tape.value("Classifier_head.1.weight", step) for step in (3, 4))
    update = ((after - before) ** 2).sum() ** 0.5 / (before**2).sum() ** 0.5
    assert tape.reduction("Classifier_head.1.weight", 3, "update") == pytest.approx(
        float(update), rel=1e-4
    )


def test_labels_and_predictions_of_validation_give_its_accuracy(head_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tape = TensorLog(opened(head_run))
    last = tape.passes("EVAL")[-1]
    hits = [(tape.value("labels", step) == tape.value("predictions", step)) for step in last.steps]
    events = EventAccumulator(str(head_run / "tensorboard" / "final")).Reload()
    assert sum(int(found.sum()) for found in hits) / 24 == pytest.approx(
        events.Scalars("valid/top1")[-1].value
    )


@pytest.mark.parametrize("which", ["head_run", "live_run"])
def test_a_recorded_training_ends_at_the_same_weights(
    which: str, request: pytest.FixtureRequest, configure: Configure, tmp_path: Path
) -> None:
    run = request.getfixturevalue(which)
    config = configure(RESNET, "debugger=none", *(LIVE if which == "live_run" else ()))
    train(context_for(config), config, tmp_path / "plain")
    assert not (tmp_path / "plain" / "debug").exists()
    assert same(run, tmp_path / "plain")


def test_a_training_in_bf16_is_recorded_and_ends_at_the_same_weights(
    configure: Configure, tmp_path: Path
) -> None:
    # A few images: where bf16 is only emulated, each takes a second.
    write_sample(tmp_path / "photos", classes=2, train=3, valid=2, test=2, size=48, seed=2)
    words = (
        *LIVE,
        "trainer.precision=bf16",
        "trainer.max_epochs=1",
        f"data.root={tmp_path / 'photos'}",
    )
    run = trained(configure, tmp_path / "recorded", *words)
    config = configure(RESNET, "debugger=none", *words)
    train(context_for(config), config, tmp_path / "plain")
    assert same(run, tmp_path / "plain")
    trial = create_trial(str(run / "debug" / "0"))
    assert all(
        np.isfinite(trial.tensor(LOSS).value(0, mode=mode)) for mode in (modes.TRAIN, modes.EVAL)
    )
    assert any(
        name.startswith("gradient/") and "backbone.conv1" in name for name in trial.tensor_names()
    )


def test_the_network_is_left_as_it_was(configure: Configure, tmp_path: Path) -> None:
    config = configure(*RECORDED, "model.freeze=layer3", "trainer.max_epochs=1")
    classifier, _ = train(context_for(config), config, tmp_path / "run")
    assert not [m for m in classifier.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not [p for p in classifier.parameters() if p._backward_hooks]
    assert not [m for m in classifier.modules() if "_module_name" in m.__dict__]
    names = create_trial(str(tmp_path / "run" / "debug" / "0")).tensor_names()
    assert any("backbone.layer4" in name for name in names)
    assert not any("backbone.layer3" in name or "backbone.conv1" in name for name in names)


class Cut(lightning.Callback):
    """Breaks training off in the middle of an epoch, as a killed process would."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.global_step == 10:
            raise RuntimeError("cut")


def test_a_resumed_run_opens_another_registration_and_readers_merge_them(
    configure: Configure, tmp_path: Path, head_run: Path
) -> None:
    config, run = configure(*RECORDED), tmp_path / "run"
    context = context_for(config)
    with pytest.raises(RuntimeError, match="cut"):
        train(context, config, run, Cut())
    assert len(losses(run)["TRAIN"]) == 10
    train(context, config, run)
    assert [Path(folder).name for folder in registrations(run)] == ["0", "1"]
    assert create_trial(str(run / "debug" / "1")).steps(mode=modes.TRAIN) == list(range(7, 14))
    assert losses(run) == losses(head_run)


class Unfreezing(lightning.Callback):
    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        for parameter in pl_module.classifier.backbone.layer4.parameters():
            parameter.requires_grad_(trainer.current_epoch > 0)


def test_layers_unfrozen_on_the_way_are_registered_again(
    configure: Configure, tmp_path: Path
) -> None:
    config, run = configure(*RECORDED, "model.freeze=none"), tmp_path / "run"
    train(context_for(config), config, run, Unfreezing())
    gradients = [
        {name for name in create_trial(folder).tensor_names() if name.startswith("gradient/")}
        for folder in registrations(run)
    ]
    assert len(gradients) == 2
    assert {name.split(".")[1] for name in gradients[1] - gradients[0]} == {"layer4"}
    found = losses(run)  # the old handles are off: nothing is recorded twice
    assert [step for step, _ in found["TRAIN"]] == list(range(1, 15)) and len(found["EVAL"]) == 2


@pytest.mark.parametrize(
    "method", ["_write_for_tensor", "register_module", "_weights_moved", "_close_writers"]
)
def test_a_hook_that_fails_is_told_once_and_training_goes_on(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    head_run: Path,
    method: str,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunHook, method, broken)
    run = trained(configure, tmp_path / "run")
    assert (
        capsys.readouterr().out.count("debugger stopped, and training continues: [Errno 28]") == 1
    )
    assert same(run, head_run)


def test_a_folder_that_cannot_be_written_is_told_once_and_training_goes_on(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "debug").write_text("in the way")
    trained(configure, tmp_path / "run")
    assert capsys.readouterr().out.count("the debugger stopped") == 1
    assert (tmp_path / "run" / "trained.json").exists()


def test_sagemaker_s_file_is_honored(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = tmp_path / "tensors"
    settings = {
        "LocalPath": str(tensors),
        "HookParameters": {"train.save_interval": "4", "eval.save_interval": "2"},
        "CollectionConfigurations": [
            {"CollectionName": "losses"},
            {
                "CollectionName": "gradients",
                "CollectionParameters": {"reductions": "mean,abs_max,l2_norm"},
            },
        ],
    }
    (tmp_path / "hook.json").write_text(json.dumps(settings))
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(tmp_path / "hook.json"))
    config = configure("debugger=none")
    train(context_for(config), config, tmp_path / "run")
    trial = create_trial(str(tensors))
    assert trial.tensor(LOSS).steps(mode=modes.TRAIN) == [0, 4, 8, 12]
    assert trial.tensor(LOSS).steps(mode=modes.EVAL) == [0]
    found = trial.tensor("gradient/Classifier_head.1.weight").reduction_values(0)
    assert set(found) == {("mean", False), ("max", True), ("l2", False)}
    assert losses(tmp_path / "run")["TRAIN"] == [
        (step + 1, pytest.approx(float(value))) for step, value in values(trial)
    ]


def values(trial: Any) -> list[tuple[int, Any]]:
    return list(trial.tensor(LOSS).values(mode=modes.TRAIN).items())


def test_a_damaged_file_of_sagemaker_s_is_told_and_training_goes_on(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "hook.json").write_text("{")
    monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(tmp_path / "hook.json"))
    trained(configure, tmp_path / "run")
    assert capsys.readouterr().out.count("the debugger stopped") == 1


@pytest.fixture
def patience() -> Iterator[None]:
    """A test that waits for ever fails instead; what it waits for is heard by the main thread
    alone."""

    def give_up(*_: object) -> None:
        raise TimeoutError("the training waits for ever")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_a_full_disk_under_its_writer_neither_stops_the_training_nor_changes_its_weights(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    patience: None,
) -> None:
    """`/dev/full` is the kernel's own full disk: it takes no byte, once a file's buffer has to be
    written."""
    from smdebug.core.access_layer.file import TSAccessFile

    opened_files = []

    def open_on_a_disk_that_fills_up(self: Any, path: str, mode: str) -> None:
        opened_files.append(path)
        self._accessor = Path("/dev/full" if len(opened_files) > 6 else path).open(mode)  # noqa: SIM115

    config = configure(
        "debugger=full", "debugger.every=1", "model.freeze=none", "trainer.max_epochs=1"
    )
    context = context_for(config)
    with monkeypatch.context() as patched:
        patched.setattr(TSAccessFile, "open", open_on_a_disk_that_fills_up)
        train(context, config, tmp_path / "full")
    plain = configure("debugger=none", "model.freeze=none", "trainer.max_epochs=1")
    train(context_for(plain), plain, tmp_path / "plain")

    assert same(tmp_path / "full", tmp_path / "plain")
    printed = "".join(capfd.readouterr())
    assert printed.count("the debugger stopped, and training continues") == 1
    assert "No space left on device" in printed
    assert "Traceback" not in printed and "Exception" not in printed
    assert not list((tmp_path / "full" / "debug").rglob("*.tmp"))
    assert [step for step, _ in losses(tmp_path / "full")["TRAIN"]] == [
        1,
        2,
    ], "what was whole can be read"


def test_it_gives_up_while_checkpoints_still_have_room(
    configure: Configure,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure("debugger=full", "debugger.every=1", "trainer.max_epochs=1")
    free = iter([10**12] * 4)  # in bytes: as much as anybody needs, until the fourth step
    monkeypatch.setattr(
        recorder.shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free, 1_000_000))
    )

    train(context_for(config), config, tmp_path / "run")

    printed = capsys.readouterr().out
    assert printed.count("the debugger stopped, and training continues") == 1
    assert f"{tmp_path / 'run'}: 1 MB are left on its disk" in printed
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    assert len(losses(tmp_path / "run")["TRAIN"]) == 4


def test_losses_alone_save_no_other_tensor_than_the_batch_sizes(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure("debugger=losses")
    train(context_for(config), config, tmp_path / "run")
    trial = create_trial(str(tmp_path / "run" / "debug" / "0"))
    assert sorted(trial.tensor_names()) == [LOSS, "batch_size"]
    # which is where smdebug's own rules look for losses
    assert trial.tensor_names(collection="losses") == [LOSS]
    assert [int(size) for size in trial.tensor("batch_size").values(modes.TRAIN).values()] == 2 * [
        *6 * [16],
        4,
    ]


@pytest.mark.parametrize("by", ["config", "SageMaker"])
def test_without_labels_the_loss_of_an_epoch_is_lightning_s_too(
    by: str, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules judge by the mean over images; a last batch of 4 among such of 16 is a quarter of
    one."""
    if by == "SageMaker":
        source = tmp_path / "debughookconfig.json"
        every_step = {"save_interval": "1"}
        source.write_text(
            json.dumps({"LocalPath": str(tmp_path / "tensors"), "HookParameters": every_step})
        )
        monkeypatch.setenv("SMDEBUG_CONFIG_FILE_PATH", str(source))
    monkeypatch.setattr(
        ImageData, "val_dataloader", lambda data: data.view_dataloader("valid", 0, batch_size=16)
    )
    config = configure("debugger=losses", "model.freeze=none")
    train(context_for(config), config, tmp_path / "run")

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "final")).Reload()
    tape = TensorLog(opened(tmp_path / "run"))
    for mode, name in (("TRAIN", "train/loss"), ("EVAL", "valid/loss")):
        logged = [event.value for event in events.Scalars(name)]
        assert [epoch.loss for epoch in tape.passes(mode)] == pytest.approx(logged, rel=1e-5), mode


def test_prediction_is_recorded_in_its_own_mode(configure: Configure, tmp_path: Path) -> None:
    config = configure(
        *RECORDED, "model.freeze=none", "debugger.collections.relu_activations.eval=1"
    )
    context = context_for(config)
    learner, _ = context.learner(context.classifier(config), config, 1)
    learner.predict_step = lambda batch: learner(batch[0])  # type: ignore[assignment]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        callbacks=[Recorder(config.debugger, tmp_path)],
    )
    trainer.predict(learner, context.data(config).val_dataloader())
    assert create_trial(str(tmp_path / "debug" / "0")).steps(mode=modes.PREDICT) == [0]


def test_a_copy_of_a_recorded_network_runs_and_writes_no_step(
    configure: Configure, tmp_path: Path
) -> None:
    class Copying(lightning.Callback):
        def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
            self.copy = deepcopy(pl_module.classifier)

    # the copy shares the hook, as an averaged model's does; it must only not break
    config = configure(*RECORDED, "model.freeze=none", "trainer.max_epochs=1")
    context = context_for(config)
    learner, _ = context.learner(context.classifier(config), config, 1)
    copying = Copying()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        max_epochs=1,
        callbacks=[Recorder(config.debugger, tmp_path), copying],
    )
    trainer.fit(learner, context.data(config))
    copying.copy(torch.zeros(2, 3, 32, 32))
    assert len(losses(tmp_path)["TRAIN"]) == BATCHES


@pytest.mark.slow
def test_a_compiled_network_is_recorded_without_cutting_it_up(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and differentiated as always, and not made into machine code, which takes minutes.
    monkeypatch.setattr(
        Classifier, "compile", lambda network: torch.nn.Module.compile(network, backend="aot_eager")
    )
    run = trained(
        configure,
        tmp_path / "run",
        "model.freeze=none",
        "trainer.compile=true",
        "trainer.max_epochs=1",
    )
    assert len(losses(run)["TRAIN"]) == BATCHES
    tape = TensorLog(opened(run))
    assert tape.names("gradients") and tape.names("weights") and not tape.names("relu_activations")
    assert (
        tape.saved("gradients", "TRAIN")
        and tape.reduction(tape.names("weights")[0], 0, "update") > 0
    )
