"""What turns a backbone's features into scores."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from breedlab.config.section import Section
from breedlab.registry import HEADS

if TYPE_CHECKING:
    from torch import nn

    from breedlab.models.classifier import Architecture


class Head(Section):
    """The head of a classifier.

    Attributes:
        one_layer: Whether it is one fully connected layer, and so is recorded and served as an
            `mlp` without widths.
        solved: Whether its weights are computed from all features at once, not trained in epochs.
    """

    one_layer: ClassVar[bool] = False
    solved: ClassVar[bool] = False

    @abstractmethod
    def build(self, features: int, architecture: Architecture) -> nn.Module:
        """Return a module from features (n, features) to logits (n, `architecture.classes`).

        Its weights travel in the model archive, and are loaded into what this builds there.
        `architecture.head` and `architecture.dropout` are `model.head` and `model.dropout`.
        """


@HEADS.register("mlp")
class Mlp(Head):
    """Fully connected layers of the widths in `model.head`, with ReLU and dropout between them."""

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import make_mlp

        return make_mlp(features, architecture)


@HEADS.register("linear")
class Linear(Head):
    """One fully connected layer, after `model.dropout`; `model.head` does not matter."""

    one_layer = True

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import make_mlp

        return make_mlp(features, architecture)


@HEADS.register("logistic")
class Logistic(Head):
    """Logistic regression on standardized features, solved by L-BFGS in one go: for a frozen
    backbone.

    Learning rate, schedule and epochs do not matter to it, and neither do `model.head` and
    `model.dropout`.
    """

    one_layer = True
    solved = True

    c: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """The inverse strength of its L2 penalty, as scikit-learn's `C`; `auto` keeps the one that
    validates best."""

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import make_mlp

        return make_mlp(features, architecture)


@HEADS.register("cosine")
class Cosine(Head):
    """Scores are cosines between the features and a vector of each class, times a scale."""

    scale: Annotated[float, Field(gt=0)] = 16.0
    """What the cosines are multiplied by."""

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import CosineLayer

        return CosineLayer(features, architecture.classes, self.scale)
