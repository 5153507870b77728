"""Which engines answer too differently from the module to be taken, by images that the network
was not trained on."""

from __future__ import annotations

from breedlab.evaluation.statistics import wilson
from breedlab.serving.engine_candidates import Candidate
from breedlab.serving.engine_kinds import MODULE, OPENVINO, Choice

FEWEST_IMAGES = 100
"""Images below which int8 is not taken: with fewer, no agreement is convincing."""
LEAST_CERTAIN_AGREEMENT = 0.95
"""What the true agreement of int8 has to exceed with 95% confidence: the lower end of its Wilson
interval."""
MOST_LOST = 0.005
"""How much of the validation top-1 an engine may lose."""
LEAST_AGREEMENT = 0.98
"""The least share of images that an engine has to put into the module's class."""


def too_few(images: int) -> str:
    """Return why this many images cannot judge int8; empty if they can."""
    if images >= FEWEST_IMAGES:
        return ""
    return f"{images} images cannot judge it, at least {FEWEST_IMAGES} are needed"


def objection(candidate: Candidate, module: Candidate, images: int) -> str:
    """Return what speaks against a candidate by its answers, else an empty text.

    Args:
        candidate: An engine; what it answers right is None where labels must not decide.
        module: What it is compared with, likewise.
        images: How many were answered.
    """
    assert candidate.agreement is not None
    if candidate.agreement < LEAST_AGREEMENT:
        return (
            f"agrees with the module on {candidate.agreement:.1%}, at least {LEAST_AGREEMENT:.0%}"
            " are needed"
        )
    lost = 0.0
    if module.right is not None and candidate.right is not None:
        lost = module.right - candidate.right
    if lost > MOST_LOST + 1e-6:
        measure = "images with all labels right" if candidate.multi_label else "top-1"
        return f"loses {100 * lost:.1f} points of {measure}, at most {100 * MOST_LOST:g} may go"
    if candidate.choice.precision != "int8":
        return ""  # rounds, as training itself does; only int8 cuts values off
    if reason := too_few(images):
        return reason
    least, _ = wilson(round(candidate.agreement * images), images)
    if least < LEAST_CERTAIN_AGREEMENT:
        return (
            f"agrees with the module on {candidate.agreement:.1%} of {images} images;"
            f" the true share may be as low as {least:.1%}, at least {LEAST_CERTAIN_AGREEMENT:.0%}"
            " have to be certain"
        )
    return ""


def most_differing(images: int) -> float:
    """Return the largest share of this many images that int8 may answer differently."""
    module = Candidate(MODULE, agreement=1.0, right=1.0)

    def passes(differing: int) -> bool:
        agreement = (images - differing) / images
        int8 = Candidate(Choice(OPENVINO, "int8"), agreement=agreement, right=1.0)
        return not objection(int8, module, images)

    allowed = 0
    while allowed < images and passes(allowed + 1):
        allowed += 1
    return allowed / images
