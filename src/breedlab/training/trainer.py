"""Lightning's Trainer as breedlab uses it: in the running processes, with checkpoints never half
written, and with a Ctrl-C that reaches the caller."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy

from breedlab import distributed
from breedlab.config import Config
from breedlab.signals import StopRequest
from breedlab.training.checkpoints import WholeCheckpoints
from breedlab.training.learner import Learner
from breedlab.training.precision import lightning_precision


def make_trainer(
    config: Config,
    folder: Path,
    callbacks: list[lightning.Callback],
    *,
    accelerator: str,
    precision: str,
    **more: Any,
) -> lightning.Trainer:
    """Return Lightning's trainer.

    Args:
        config: The experiment.
        folder: Where the training leaves its files.
        callbacks: All of them.
        accelerator, precision: In Lightning's terms and ours.
        more: Other arguments for Lightning.
    """
    return lightning.Trainer(
        accelerator=accelerator,
        **_processes(config),
        precision=lightning_precision(precision),
        # Lightning restores a checkpoint that it finds there, and would look in the working folder
        default_root_dir=folder,
        gradient_clip_val=config.trainer.gradient_clip,
        callbacks=callbacks,
        log_every_n_steps=1_000_000,  # metrics are logged by epoch
        enable_model_summary=False,
        **more,
    )


def train(
    trainer: lightning.Trainer,
    learner: Learner,
    data: lightning.LightningDataModule,
    last: Path,
    stop: StopRequest,
) -> None:
    """Train, from the checkpoint `last` on if it is there.

    Raises:
        KeyboardInterrupt: On Ctrl-C, when the step is saved and Lightning has shut down.
        Stopped: Likewise, on SIGTERM.
    """
    # Lightning trains in the mode that it finds: in evaluation mode, without dropout
    learner.train()
    with stop.deferrable(), _interruptible(trainer):
        resumes = distributed.rank_zero_only(last.exists)
        trainer.fit(
            learner, datamodule=data, ckpt_path=str(last) if resumes else None, weights_only=True
        )


def _processes(config: Config) -> dict[str, Any]:
    """Return Lightning's strategy for the running processes."""
    if distributed.world() == 1:
        # Named, or Lightning takes a process in a Slurm job for one of its tasks, and waits for the
        # others.
        return {"devices": 1, "plugins": [WholeCheckpoints(), LightningEnvironment()]}
    return {
        "devices": distributed.local_world(),
        "num_nodes": distributed.world() // distributed.local_world(),
        # The frozen part is the same everywhere, and stays so.
        "strategy": DDPStrategy(broadcast_buffers=config.model.freeze != "backbone"),
        "use_distributed_sampler": False,
        "plugins": [WholeCheckpoints(), TorchElasticEnvironment()],
    }


@contextmanager
def _interruptible(trainer: lightning.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt on Ctrl-C, which Lightning answers with `sys.exit(1)`, leaving the
    signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
