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
    """One linear layer, after `model.dropout`; ignores `model.head`."""

    one_layer = True

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import make_mlp

        return make_mlp(features, architecture)


@HEADS.register("logistic")
class Logistic(Head):
    """Logistic regression on standardized features, solved directly with L-BFGS; needs a frozen
    backbone.

    Learning rate, schedule, and epochs have no effect on it, nor do `model.head` and
    `model.dropout`.
    """

    one_layer = True
    solved = True

    c: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """The inverse strength of the L2 penalty, scikit-learn's `C`; `auto` picks the best on
    validation."""

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import make_mlp

        return make_mlp(features, architecture)


@HEADS.register("cosine")
class Cosine(Head):
    """Scores are scaled cosine similarities between the features and one vector per class."""

    scale: Annotated[float, Field(gt=0)] = 16.0
    """The factor by which the cosines are multiplied."""

    def build(self, features: int, architecture: Architecture) -> nn.Module:
        from breedlab.models.classifier import CosineLayer

        return CosineLayer(features, architecture.classes, self.scale)
