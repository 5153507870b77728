"""The tags that mark what breedlab created in an account, so that it is found, and not confused
with what others made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from breedlab.backends.submission import user_name
from breedlab.config.endpoint import OWN_TAGS

PREFIX = OWN_TAGS
"""How the keys of our own tags begin; users cannot set these."""

ENDPOINT = f"{PREFIX}endpoint"
RUN = f"{PREFIX}run"
USER = f"{PREFIX}user"
EXPERIMENT = f"{PREFIX}experiment"

STOPPED_BY = f"{PREFIX}stopped-by"
"""The user who stopped a job with `breedlab jobs stop`."""

OLD = "breedlab"
"""The only tag of jobs that older versions launched; its value is the experiment's name."""

_LONGEST_VALUE = 256
_REFUSED = re.compile(r"[^\w\s.:/=+\-@]")
"""What AWS takes in no value: all but letters, digits, separators and `_.:/=+-@`."""


def own_tags(**values: str | None) -> tuple[tuple[str, str], ...]:
    """Return our tags, by their names without the prefix; the user is always among them.

    Args:
        values: `endpoint`, `run`, `experiment`; those without a value are left out.
    """
    tags = {**values, "user": user_name()}
    return tuple((f"{PREFIX}{name}", tag_value(value)) for name, value in tags.items() if value)


def tag_value(text: str) -> str:
    """Return a text as AWS takes it for a tag's value; each character that it refuses becomes
    `_`."""
    return _REFUSED.sub("_", " ".join(text.split()))[:_LONGEST_VALUE]


def as_request(tags: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    """Return tags as SageMaker's and CloudWatch's requests hold them."""
    return [{"Key": key, "Value": value} for key, value in tags]


def read_tags(sagemaker: Any, arn: str) -> dict[str, str]:
    """Return the tags of something in SageMaker, all pages of them."""
    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=arn)
    return {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}


def whose(tags: Mapping[str, str]) -> str:
    """Return who made something, in words for a message."""
    if USER in tags:
        return f"{tags[USER]}'s"
    return "not created by breedlab (it has no breedlab: tags)"
