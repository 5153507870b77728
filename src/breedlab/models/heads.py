"""What turns a backbone's features into scores."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from breedlab.config.section import Section
from breedlab.registry import HEADS

if TYPE_CHECKING:
    from torch import nn

    from breedlab.models.classifier import Architecture


class Head(Section):
    """The head of a classifier."""

    @abstractmethod
    def build(self, features: int, architecture: Architecture) -> nn.Module:
        """Return a module from features (n, features) to logits (n, `architecture.classes`).

        Its weights travel in the model archive, and are loaded into what this builds there. `architecture.head` and
        `architecture.dropout` are `model.head` and `model.dropout`.
        """


@HEADS.register("mlp")
class Mlp(Head):
    """Fully connected layers of the widths in `model.head`, with ReLU and dropout between them."""

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import make_mlp

        return make_mlp(features, architecture)
