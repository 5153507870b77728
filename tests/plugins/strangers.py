"""What a stranger writes into a package."""

from __future__ import annotations

from collections.abc import Callable

Write = Callable[..., str]
"""Takes the source of a package, and returns the override that names it."""

AUGMENTATION = '''
from typing import Annotated

from pydantic import Field

from breedlab.data.augmentations import Augmentation
from breedlab.registry import AUGMENTATIONS


@AUGMENTATIONS.register("blank")
class Blank(Augmentation):
    """Blank out the upper left corner."""

    side: Annotated[int, Field(ge=1, le=64)] = 8
    """Pixels of the corner's side."""

    def build(self):
        def blank(image):
            image[:, : self.side, : self.side] = 0
            return image

        return blank
'''
