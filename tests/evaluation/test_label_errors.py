"""The labels that are probably wrong, beside cleanlab."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breedlab.evaluation.label_errors import can_judge, margins, out_of_fold, suspects, worth_a_look


def planted(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, labels of which 5% are flipped, and which those are."""
    draw = torch.Generator().manual_seed(seed)
    centers = 1.2 * torch.randn(10, 32, generator=draw)
    true = torch.arange(1000) % 10
    features = centers[true] + torch.randn(1000, 32, generator=draw)
    flipped = torch.randperm(1000, generator=draw)[:50]
    labels = true.clone()
    labels[flipped] = (true[flipped] + torch.randint(1, 10, (50,), generator=draw)) % 10
    return features, labels, flipped


@pytest.mark.parametrize("seed", [0, 1])
def test_of_planted_flips_four_in_five_are_in_the_first_tenth_of_the_list(seed: int) -> None:
    features, labels, flipped = planted(seed)
    probabilities = out_of_fold(features, labels)
    assert torch.isin(flipped, margins(probabilities, labels).argsort()[:100]).float().mean() >= 0.8
    found = suspects(probabilities, labels)
    assert torch.isin(flipped, found).float().mean() >= 0.7 and len(found) <= 100
    assert torch.isin(found[:40], flipped).float().mean() > 0.9  # the most suspect are true


def test_the_suspects_and_their_order_are_cleanlabs() -> None:
    rank, find = pytest.importorskip("cleanlab.rank"), pytest.importorskip("cleanlab.filter")
    features, labels, _ = planted(3)
    probabilities = out_of_fold(features, labels)
    given = (labels.numpy(), probabilities.double().numpy())
    theirs = rank.get_normalized_margin_for_each_label(*given)
    assert np.corrcoef(theirs, margins(probabilities, labels).numpy())[0, 1] == pytest.approx(
        1, abs=1e-6
    )
    expected = find.find_label_issues(
        *given, filter_by="confident_learning", return_indices_ranked_by="normalized_margin"
    )
    assert suspects(probabilities, labels).tolist() == expected.tolist()


def test_no_image_helps_to_judge_itself() -> None:
    draw = torch.Generator().manual_seed(0)
    # nothing to learn, much to keep
    features, labels = torch.randn(200, 500, generator=draw), torch.arange(200) % 4
    right = (out_of_fold(features, labels).argmax(1) == labels).float().mean()
    assert 0.1 < float(right) < 0.4


def test_features_that_say_nothing_accuse_no_label() -> None:
    """Half of the images were listed as probably wrong by a network of random numbers."""
    draw = torch.Generator().manual_seed(0)
    features, labels = torch.randn(200, 20, generator=draw), torch.arange(200) % 4
    probabilities = out_of_fold(features, labels)
    assert len(suspects(probabilities, labels)) > 50 and not can_judge(probabilities, labels)
    assert worth_a_look(probabilities, labels) == []
    rare = (torch.arange(200) % 20 == 0).long()  # 95% right by always naming the other class
    assert not can_judge(out_of_fold(features, rare), rare)
    good_features, flipped_labels, _ = planted(0)
    probabilities = out_of_fold(good_features, flipped_labels)
    assert can_judge(probabilities, flipped_labels)
    assert len(worth_a_look(probabilities, flipped_labels)) >= 40
