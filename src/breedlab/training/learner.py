"""The LightningModule: one definition of the training step, for every way of feeding it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.modules.loss import _Loss

from breedlab.config import Config
from breedlab.data.batches import TrainingLoader
from breedlab.models.classifier import Classifier
from breedlab.models.weights import CARD
from breedlab.training.architecture import is_solved
from breedlab.training.cross_entropy import image_weights
from breedlab.training.curves import epoch_intervals
from breedlab.training.mixing import mixing
from breedlab.training.optimization import make_optimizer, make_schedule, refuse_other_groups
from breedlab.training.tasks import task_of

Batch = tuple[torch.Tensor, torch.Tensor]


class Learner(lightning.LightningModule):
    """A trainer of a classifier on images, or of only what is after its frozen boundary on cached
    activations.

    Args:
        classifier: The network.
        config: The experiment.
        steps_per_epoch: For the schedule.
        class_counts: Images of each class to train on; for losses that depend on them.
        class_weights: (classes,), or None.
        tail: What computes logits from a batch's inputs; None for images and the whole classifier.
            Its parameters are the classifier's own.
        epochs: For the schedule; the trainer's by default.

    Attributes:
        card: What checkpoints say of the model, so that another training can start from one.
    """

    card: Mapping[str, Any] | None = None

    def __init__(
        self,
        classifier: Classifier,
        config: Config,
        *,
        steps_per_epoch: int,
        class_counts: Sequence[int] = (),
        class_weights: torch.Tensor | None = None,
        tail: nn.Module | None = None,
        epochs: int | None = None,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        self.epochs = epochs or config.trainer.max_epochs
        self.task = task_of(config.data)
        self.criterion = _recordable(self.task.loss(config.optim, class_counts, class_weights))
        # for the debugger's hook
        self.criterion.multi_label = self.task.multi_label  # type: ignore[assignment]
        self.validation = self.task.metrics(
            classifier.architecture.classes, shared=True, monitor=config.monitor
        )
        # In a list, since registering it would store its weights under a second name.
        self._tail = [] if tail is None else [tail]
        self._mix = mixing(config.data, classifier.architecture.classes)
        # Of the epoch so far: loss, hits, images. In checkpoints, since an epoch may end in another
        # process.
        self._sums = torch.zeros(3, dtype=torch.float64)
        self._validated = 0

    @property
    def _is_solved(self) -> bool:
        return is_solved(self.config)

    @property
    def entry(self) -> nn.Module:
        """What runs first in a step: the classifier, or what is after its boundary."""
        return self._tail[0] if self._tail else self.classifier

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of images, or of activations if there is a tail."""
        logits: torch.Tensor = self.entry(inputs)
        return logits

    def train(self, mode: bool = True) -> Learner:
        if self._tail:
            self.training = mode  # what is frozen stays in evaluation mode
            for part in (*self._tail, self.validation):
                part.train(mode)
        else:
            super().train(mode)
        if self.config.model.batch_norm == "frozen":
            for module in self.classifier.backbone.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def on_validation_model_train(self) -> None:
        # Lightning would reset each module that it knows, and the tail is not one of them.
        self.train()

    def loss_and_hits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the training loss and the share of images that are answered right."""
        inputs, labels = batch
        if self._mix is not None:
            inputs, labels = self._mix(inputs.float(), labels)
        logits = self(inputs)
        right = self.task.right(logits.detach(), labels)
        return self.criterion(logits, labels), right.float().mean()

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        loss, hits = self.loss_and_hits(batch)
        mine = whole = len(batch[1])
        if self.trainer.world_size > 1:
            loader = self.trainer.train_dataloader
            assert isinstance(loader, TrainingLoader)
            mine, whole = loader.batches.sizes(index)
            loss = loss * self._share(batch[1][:mine])
        part = loss.detach() / self.trainer.world_size
        self._sums += torch.stack([part * whole, hits * mine, hits.new_tensor(mine)]).double()
        return loss

    def _share(self, labels: torch.Tensor) -> torch.Tensor:
        """Return this process's part of the batch's loss, times the number of processes, by which
        DDP divides the gradients' sum."""
        # Of the labels before they are mixed: mixed images weigh as much in sum.
        mine = image_weights(self.criterion, labels).sum()
        return mine * self.trainer.world_size / self._of_all(mine)

    def _of_all(self, number: torch.Tensor) -> torch.Tensor:
        total = number.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total

    def on_train_epoch_end(self) -> None:
        loss, hits, images = self._of_all(self._sums)
        self.log("train/loss", loss / images, prog_bar=True)
        self.log(f"train/{self.task.accuracy}", hits / images)
        self._sums.zero_()

    def on_fit_start(self) -> None:
        self._sums = self._sums.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["epoch_sums"] = self._of_all(self._sums).cpu()
        if self.card:
            checkpoint[CARD] = self.card

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if (states := checkpoint.get("optimizer_states")) and not self._is_solved:
            refuse_other_groups(self.classifier, self.config.optim, states[0])
        # of a one-cycle schedule, since the run may now have more epochs
        for state in checkpoint["lr_schedulers"]:
            for name in ("total_steps", "_schedule_phases"):
                state.pop(name, None)
        if self.trainer.is_global_zero:  # rank 0 keeps the sums for all
            self._sums.copy_(checkpoint["epoch_sums"])

    def on_validation_epoch_start(self) -> None:
        self._validated = 0
        if self.trainer.world_size > 1 and self.classifier.freeze != "backbone":
            # On CPUs, each process has BatchNorm's averages of its own images: use those of rank 0,
            # which the checkpoint has.
            for buffer in self.classifier.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, _index: int) -> torch.Tensor:
        inputs, labels = batch
        logits = self(inputs)
        self.validation.update(logits, labels)
        self._validated += len(labels)
        # with the training's loss, for callbacks
        loss: torch.Tensor = self.criterion(logits, labels)
        return loss

    def on_validation_epoch_end(self) -> None:
        values = self.validation.compute().items()
        figures = {f"valid/{name}": value.float() for name, value in values}
        images = int(self._of_all(torch.tensor(self._validated, device=self.device)))
        ends = epoch_intervals({name: float(value) for name, value in figures.items()}, images)
        self.log_dict({**figures, **ends})
        self.validation.reset()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to clip for a fused optimizer in mixed precision, although with bf16
        # nothing is scaled.
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(
                (p for g in optimizer.param_groups for p in g["params"]), gradient_clip_val
            )

    def configure_optimizers(self) -> Any:
        if self._is_solved:  # its epoch measures the solved head, and must not change it
            return torch.optim.SGD(self.classifier.head.parameters(), lr=0.0)
        optimizer = make_optimizer(self.classifier, self.config.optim)
        schedule = make_schedule(
            optimizer, self.config.optim, steps_per_epoch=self.steps_per_epoch, epochs=self.epochs
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class RegisteredLoss(_Loss):
    """Wrap a loss that is not of PyTorch's class of losses, since the debugger's hook records only
    those."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        mean: torch.Tensor = self.loss(input, target)
        return mean


def _recordable(loss: nn.Module) -> _Loss:
    """Return a loss as the debugger's hook takes it."""
    return loss if isinstance(loss, _Loss) else RegisteredLoss(loss)
