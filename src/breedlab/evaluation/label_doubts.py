"""Find labels of multi-label images that are probably wrong: each label by itself, by confident
learning.

`label_errors` does the same for images with one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from breedlab.evaluation.label_errors import FOLDS, out_of_fold_logits


@dataclass(frozen=True)
class Doubts:
    """What a model of the other images says about each image's labels.

    Attributes:
        own: The probability that a label is as it was given, (n, classes).
        worth_a_look: Where the opposite is more likely, bool (n, classes).
        probable: Where it is probably wrong, bool (n, classes).
        judged: Which labels can be judged, bool (classes,); no other is doubted.
    """

    own: torch.Tensor
    worth_a_look: torch.Tensor
    probable: torch.Tensor
    judged: torch.Tensor

    def listed(self) -> list[int]:
        """Return the images to look at, the one with the most doubtful label first."""
        least = torch.where(self.worth_a_look, self.own, 1.0).min(1).values
        return [index for index in least.argsort(stable=True).tolist() if least[index] < 1]


def out_of_fold_labels(
    features: torch.Tensor, targets: torch.Tensor, fold: torch.Tensor
) -> torch.Tensor:
    """Return the probability of each label of each image (n, classes), by logistic regressions on
    the other folds' features.

    Args:
        features: (n, width).
        targets: Zeros and ones, (n, classes).
        fold: Of each image, (n,).
    """
    return out_of_fold_logits(
        features, targets.float(), fold, targets.shape[1], _summed_over_labels
    ).sigmoid()


def _summed_over_labels(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the images' mean loss: each label is a separate regression, with its own penalty."""
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return loss / len(targets)


def doubts(probabilities: torch.Tensor, targets: torch.Tensor) -> Doubts:
    """Return which labels to doubt.

    A label is judged if enough images have it, and if its probabilities are right at least halfway
    from always giving the more frequent answer to always being right: errors on a label that they
    hardly know are the model's, not the label's.

    Args:
        probabilities: From `out_of_fold_labels`.
        targets: Zeros and ones, (n, classes).
    """
    has_label = targets > 0.5
    own = torch.where(has_label, probabilities, 1 - probabilities)
    share = has_label.float().mean(0)
    guessing = torch.maximum(share, 1 - share)
    right = (own > 0.5).float().mean(0)
    few = torch.minimum(has_label.sum(0), (~has_label).sum(0)) < FOLDS
    judged = (right >= (1 + guessing) / 2) & ~few
    # Confident learning (Northcutt et al. 2021): an image is counted for an answer if its
    # probability is at least the average of the images with that label.
    average_yes = (probabilities * has_label).sum(0) / has_label.sum(0)
    average_no = ((1 - probabilities) * ~has_label).sum(0) / (~has_label).sum(0)
    other = 1 - own
    counted_for_other = other >= torch.where(has_label, average_no, average_yes)
    counted_for_own = own >= torch.where(has_label, average_yes, average_no)
    wrong = counted_for_other & (~counted_for_own | (other > own))
    return Doubts(own, (own < 0.5) & judged, wrong & judged, judged)
