"""The typed config as a whole, and how it is recorded: with the text of what comes from the
environment."""

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from breedlab.config.backend import Backend
from breedlab.config.components import extended
from breedlab.config.debugger import Debugger
from breedlab.config.environment import SHORT, concealed, marked, texts_in
from breedlab.config.logger import Logger
from breedlab.config.profiler import Profiler
from breedlab.config.section import Location, Name, Section
from breedlab.config.sections import (
    Cache,
    Data,
    FineTune,
    Model,
    Monitor,
    Optim,
    Report,
    Serving,
    Trainer,
    Tuner,
)
from breedlab.registry import REGISTRIES


class Config(Section):
    """A whole experiment.

    It knows which of its values come from the environment, and by which text; see
    `config.environment`.
    """

    name: Name
    """The experiment's name; its runs are in `<runs_dir>/<name>/`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The seed of everything random."""
    dry_run: bool = False
    """Whether to print what would happen instead of doing it."""
    resume: str | None = None
    """A run directory to continue."""
    plugins: list[str] = Field(default_factory=list)
    """Your own packages with additional components (docs/plugins.md)."""
    runs_dir: Location = "runs"
    """The folder for run directories."""
    monitor: Monitor = Field(default_factory=Monitor)
    cache: Cache = Field(default_factory=Cache)
    model: Model
    data: Data
    optim: Optim = Field(default_factory=Optim)
    trainer: Trainer = Field(default_factory=Trainer)
    fine_tune: FineTune = Field(default_factory=FineTune)
    tuner: Tuner = Field(default_factory=Tuner)
    debugger: Debugger = Field(default_factory=Debugger)
    profiler: Profiler = Field(default_factory=Profiler)
    logger: Logger = Field(default_factory=Logger)
    backend: Backend = Field(default_factory=Backend)
    serving: Serving = Field(default_factory=Serving)
    report: Report = Field(default_factory=Report)

    _texts: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _with_texts(cls, tree: Any, handler: ModelWrapValidatorHandler["Config"]) -> "Config":
        config = handler(tree)
        if isinstance(tree, dict):
            config._texts = texts_in(tree)
        return config

    def tree(self) -> dict[str, Any]:
        """Return the config as plain containers, in which `FromEnvironment` marks what comes from
        the environment."""
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            node[leaf] = marked(node[leaf], text)
        return tree

    def recorded(self) -> dict[str, Any]:
        """Return the config as it is recorded: with the text of what comes from the environment.

        What the record itself is read by stays a value: the experiment's name, which names its
        folder, too, the network, and every number and choice.
        """
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            if not _is_read_by(path, node[leaf]):
                node[leaf] = text
        return tree

    def conceal(self, text: str) -> str:
        """Return a text that is written down, with the variables' texts instead of their
        values."""
        return concealed(text, dict(self._values()))

    def _values(self) -> Iterator[tuple[str, str]]:
        tree = self.model_dump()
        for path, text in self._texts.items():
            node, leaf = _place(tree, path)
            value = node[leaf]
            if isinstance(value, str) and len(value) >= SHORT and not _is_read_by(path, value):
                yield value, text
                if path in _PLACES:
                    yield os.path.abspath(value), text
                    yield os.path.realpath(value), text


def schema() -> type[Config]:
    """Return the schema with the sections of all registered components, those of plugins among
    them."""
    return cast("type[Config]", extended(Config))


_PLACES = ("data.root", "model.weights", "cache.dir", "runs_dir")
"""Paths that name something on this machine, which records name by its absolute path, too."""


def _place(tree: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that holds a leaf, and its name there; names in an open mapping may have
    dots."""
    node, rest = tree, path
    while rest not in node:
        name = next(name for name in node if rest.startswith(f"{name}."))
        node, rest = node[name], rest.removeprefix(f"{name}.")
    return node, rest


def _is_read_by(path: str, value: Any) -> bool:
    """Return whether a record needs the value itself: names that decide what other settings mean,
    and values from a few choices."""
    if path in ("name", "model.name", "model.freeze"):
        return True
    if path == "model.weights":  # a keyword such as DEFAULT or package:efficientnet_lite0, no place
        return "/" not in value and "." not in value
    if any(value in registry.choices() for registry in REGISTRIES):
        return True
    annotation: Any = Config
    for part in path.split("."):
        fields = getattr(_section(annotation), "model_fields", {})
        if part not in fields:
            return False
        annotation = fields[part].annotation
    return value in _choices(annotation)


def _section(annotation: Any) -> Any:
    return next(
        (kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")),
        None,
    )


def _choices(annotation: Any) -> list[Any]:
    choices: list[Any] = []
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is Literal:
            choices += get_args(kind)
        elif kind is not annotation:
            choices += _choices(kind)
    return choices
