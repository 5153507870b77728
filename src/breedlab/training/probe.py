"""The linear probe: the head alone, trained on the still frozen backbone before fine-tuning."""

from __future__ import annotations

from breedlab import config as configs
from breedlab.config import Config
from breedlab.config.data_rules import PLAIN_VIEWS
from breedlab.console import note
from breedlab.models.classifier import Classifier
from breedlab.training.context import TrainingContext


def probe(context: TrainingContext, classifier: Classifier, config: Config) -> None:
    """Train a classifier's head alone, so that fine-tuning starts from a sensible head.

    Linear probe, then fine-tune (Kumar et al. 2022, arXiv 2202.10054).
    """
    values = {
        "model.freeze": "backbone",
        **PLAIN_VIEWS,
        "data.mixup": 0.0,
        "data.cutmix": 0.0,
        "trainer.probe_epochs": 0,
        "trainer.max_epochs": config.trainer.probe_epochs,
        "trainer.ema": 0.0,
        "trainer.compile": False,
        "optim.lr": config.trainer.probe_lr,
        "optim.warmup_epochs": 0.0,
        "tuner.strategy": "none",
    }
    probing = configs.replace(config, values)
    frozen = context.classifier(probing)
    for epoch in context.epochs(frozen, probing, config.trainer.probe_epochs):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in epoch.valid.items())
        note(
            f"probe epoch {epoch.number + 1}/{config.trainer.probe_epochs}"
            f"  train/loss {epoch.train_loss:.4f}  {figures}"
        )
    classifier.head.load_state_dict(frozen.head.state_dict())
