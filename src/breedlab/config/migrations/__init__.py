"""Read what an older version of breedlab wrote, and refuse what a newer one did.

Four things outlive the version that wrote them: a run directory (its `config.yaml`), an archive
(`model.json`), the record of a SageMaker job (`job.json`) and a study (`study.db`). Each carries
`schema_version`. What was written before there was such a number is version 1.

A new field needs no migration: it has a default. Where that is not what older versions did,
`FORMER` has what a recorded config means that lacks the field. What needs a migration is a change
of meaning. To make one, raise `SCHEMA_VERSION`, and register here, under the version that it starts
from, a function that returns the tree in the next version's terms. Every release's files stay in
`tests/assets/` and are read in CI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from breedlab.errors import NewerVersion

Tree = dict[str, Any]
Kind = Literal["run", "archive", "job", "study"]

SCHEMA_VERSION = 1
"""The version of everything that this breedlab writes."""

KEY = "schema_version"

MIGRATIONS: dict[tuple[Kind, int], Callable[[Tree], Tree]] = {}
"""From a kind and the version of a tree to what makes the next version of it."""

FORMER: dict[tuple[str, str], Any] = {
    ("optim", "param_groups"): "legacy",
    ("fine_tune", "wise_ft"): False,
}
"""What older versions did where their recorded configs lack a field of a section: a resumed run
continues with it."""


def stamp(tree: Mapping[str, Any]) -> Tree:
    """Return a tree with the current schema version in front."""
    return {KEY: SCHEMA_VERSION, **tree}


def upgrade(tree: Mapping[str, Any], kind: Kind, source: str) -> Tree:
    """Return a tree in the current version's terms, without its version.

    Args:
        tree: As it was read. It is not changed.
        kind: What was read.
        source: The file, for the message.

    Raises:
        ConfigError: If the version is newer than this breedlab, or is not a version.
    """
    upgraded = dict(tree)
    version = upgraded.pop(KEY, 1)
    refuse_newer(version, source)
    for older in range(version, SCHEMA_VERSION):
        if migration := MIGRATIONS.get((kind, older)):
            upgraded = migration(upgraded)
    if kind == "run":
        for (section, field), value in FORMER.items():
            if isinstance(upgraded.get(section), Mapping):
                upgraded[section] = {field: value, **upgraded[section]}
    return upgraded


def refuse_newer(version: Any, source: str) -> None:
    """Raise ConfigError if a file's schema version is newer than this breedlab, or is not a
    version."""
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise NewerVersion(
            f"{source}: {KEY} is {version!r}; expected a whole number from 1 to {SCHEMA_VERSION}"
        )
    if version > SCHEMA_VERSION:
        raise NewerVersion(
            f"{source}: written by a newer breedlab ({KEY} {version}; this one reads up to"
            f" {SCHEMA_VERSION}); upgrade breedlab to open it"
        )
