"""What every part of the typed config is made of.

Modules of `config/` with sections do not import `annotations` from `__future__`: pydantic would
compile each of the hundreds of annotations from its text, at every start of every command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

Location = Annotated[str, StringConstraints(min_length=1), AfterValidator(os.path.expanduser)]
"""A file or folder; `~` is the user's own."""

Fraction = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
PositiveInt = Annotated[int, Field(ge=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """One part of the config: closed, typed, never changed after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True
    )


def matching(pattern: str, words: str) -> AfterValidator:
    """Refuse a value that does not match a pattern, naming what would."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise PydanticCustomError("pattern", "{words}", {"words": words})
        return value

    return AfterValidator(check)


def not_a_number(words: str) -> Callable[[Any], Any]:
    """Refuse a value that YAML reads as a number."""

    def check(value: Any) -> Any:
        if isinstance(value, int | float):
            raise PydanticCustomError("number", "{words}", {"words": words})
        return value

    return check


JobName = Annotated[
    str,
    matching(
        r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,31}",
        "up to 32 letters, digits and '-', the first and last no '-'",
    ),
]
