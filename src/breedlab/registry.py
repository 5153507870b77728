"""The kinds of components that users add, each by one class that is registered under its name.

A component is a `Section` of the config: its fields are its settings, with their types, ranges and
defaults, and the docstrings under them are the settings' documentation. Its `build` makes what the
settings describe, and imports heavy packages there, so that help, a typo and a dry run answer
without torch.

    @AUGMENTATIONS.register("blank")
    class Blank(Augmentation):
        ...

A component that has settings gets a section of its name next to the setting that chooses it: those
of the augmentation `blank` are at `data.blank`. docs/plugins.md has an example of each kind.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

from breedlab.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T", bound="BaseModel")


class Registry(Generic[T]):
    """The components of one kind, by name.

    Args:
        kind: What one of them is called in messages.
        setting: The config path that chooses one; empty where all of them are at work.
        home: The module of the built-in ones, which is imported when the first is asked for.
        section: The config path of the section that holds theirs; that of the setting by default.
            Without either they have no settings.
        searched: Whether a search may vary their settings.
        optional: Whether a component is chosen by its section being there, and not by a setting.
        without: What the setting takes besides their names.
        prefix: What precedes a name in the setting.
    """

    def __init__(
        self,
        kind: str,
        setting: str,
        home: str,
        *,
        section: str = "",
        searched: bool = False,
        optional: bool = False,
        without: tuple[str, ...] = (),
        prefix: str = "",
    ) -> None:
        self.kind, self.setting, self.home = kind, setting, home
        self.section = section or setting.rpartition(".")[0]
        self.searched, self.optional, self.without, self.prefix = (
            searched,
            optional,
            without,
            prefix,
        )
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a decorator that adds a class under a name.

        Raises:
            ConfigError: If the name cannot be one, or is another class's, or YAML has nothing that
                a setting takes.
        """
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
            raise PluginError(
                f"{self.kind} {name!r}: expected a name of small letters, digits and single '_'"
            )

        def add(component: type[T]) -> type[T]:
            other = self._classes.get(name, component)
            if (other.__module__, other.__qualname__) != (
                component.__module__,
                component.__qualname__,
            ):
                raise PluginError(
                    f"{self.kind} {name!r}: {component.__module__}.{component.__qualname__} has the"
                    f" name of {other.__module__}.{other.__qualname__}; register it under another"
                )
            self._refuse_types_without_yaml(name, component)
            self._classes[name] = component
            return component

        return add

    def _refuse_types_without_yaml(self, name: str, component: type[T]) -> None:
        for setting, info in component.model_fields.items():
            if not _is_converted(info.metadata) and not _in_yaml(info.annotation):
                raise PluginError(
                    f"{self.kind} {name!r}: its setting {setting} cannot be given in YAML, by its"
                    f" type {info.annotation}; expected bool, int, float, str, Literal, or a list"
                    " or dict of those"
                )

    def names(self) -> list[str]:
        """Return the names of all components, built-in ones first."""
        import_module(self.home)
        return list(self._classes)

    def choices(self) -> list[str]:
        """Return all that the setting takes."""
        return [*self.without, *(f"{self.prefix}{name}" for name in self.names())]

    def get(self, name: str) -> type[T]:
        """Return the class of a name.

        Raises:
            ConfigError: If there is none; lists those that there are.
        """
        names = self.names()
        if name not in names:
            from breedlab.suggestions import nearest

            where = f"{self.setting}: " if self.setting else ""
            hint = nearest(name, names)
            raise ConfigError(
                f"{where}no {self.kind} {name!r}; expected one of {', '.join(names)}{hint}",
                "BL103",
            )
        return self._classes[name]

    def items(self) -> Iterator[tuple[str, type[T]]]:
        """Yield the name and class of every component, built-in ones first."""
        for name in self.names():
            yield name, self._classes[name]

    def chosen(self, section: BaseModel) -> T:
        """Return the component that a section of the config chooses, with its settings.

        Args:
            section: The one that holds the setting, such as `config.data`.

        Raises:
            ConfigError: If there is none of that name.
        """
        return self.made(getattr(section, self.setting.rpartition(".")[2]), section)

    def made(self, name: str, section: BaseModel) -> T:
        """Return the component of a name, with its settings from a section of the config.

        Raises:
            ConfigError: If there is none of that name.
        """
        component = self.get(name)
        settings = getattr(section, name, None)
        return settings if isinstance(settings, component) else component()

    def identity(self, section: BaseModel) -> str | list[Any]:
        """Return what distinguishes a chosen component from any other, as plain data, for the keys
        of caches.

        A name says all of a built-in component without settings; else its settings and its module's
        code count, too.
        """
        name = getattr(section, self.setting.rpartition(".")[2])
        if name in self.without:
            return str(name)
        component = self.made(name, section)
        if type(component).__module__ == self.home and not type(component).model_fields:
            return str(name)
        return [name, component.model_dump(mode="json"), _code_digest(type(component).__module__)]


def _is_converted(metadata: list[Any]) -> bool:
    """Return whether a setting's annotations make its type of what YAML holds."""
    from pydantic import BeforeValidator, PlainValidator, Strict, WrapValidator

    converters = (BeforeValidator, PlainValidator, WrapValidator)
    return any(
        isinstance(each, converters) or (isinstance(each, Strict) and not each.strict)
        for each in metadata
    )


def _in_yaml(annotation: Any) -> bool:
    """Return whether a strictly checked setting of a type takes what YAML can hold."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation in _YAML_TYPES or hasattr(annotation, "model_fields")
    origin = get_origin(annotation)
    if origin in (tuple, set, frozenset):
        return False
    if origin is Annotated:
        return _in_yaml(get_args(annotation)[0])
    if origin in (Union, UnionType, list, dict):
        return all(_in_yaml(part) for part in get_args(annotation))
    return True  # a Literal, Any, a Mapping


_YAML_TYPES = (bool, int, float, str, list, dict, NoneType)


def _code_digest(module: str) -> str:
    file = getattr(sys.modules[module], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()[:16]


AUGMENTATIONS: Registry[Any] = Registry(
    "augmentation", "data.augment", "breedlab.data.augmentations", searched=True, without=("none",)
)

LOSSES: Registry[Any] = Registry("loss", "optim.loss", "breedlab.training.losses", searched=True)
HEADS: Registry[Any] = Registry("head", "model.head_type", "breedlab.models.heads", searched=True)
METRICS: Registry[Any] = Registry(
    "metric", "monitor.metric", "breedlab.evaluation.metrics", prefix="valid/"
)
SCHEDULES: Registry[Any] = Registry(
    "schedule", "optim.schedule", "breedlab.training.schedules", searched=True
)
OPTIMIZERS: Registry[Any] = Registry(
    "optimizer", "optim.name", "breedlab.training.optimizers", searched=True
)
DEBUGGER_RULES: Registry[Any] = Registry(
    "debugger rule", "", "breedlab.config.debugger", section="debugger.rules"
)
PROFILER_RULES: Registry[Any] = Registry(
    "profiler rule", "", "breedlab.profiling.rules", section="profiler.rules"
)
REPORT_SECTIONS: Registry[Any] = Registry(
    "report section", "", "breedlab.reporting.added_sections", section="report"
)
LOGGERS: Registry[Any] = Registry(
    "logger", "logger.name", "breedlab.training.logger_kinds", without=("none",)
)
ENGINES: Registry[Any] = Registry(
    "engine", "serving.engine", "breedlab.serving.engines", without=("auto",)
)
SOURCES: Registry[Any] = Registry(
    "data source", "", "breedlab.data.sources", section="data", optional=True
)
BACKENDS: Registry[Any] = Registry("backend", "backend.name", "breedlab.backends.kinds")

REGISTRIES: tuple[Registry[Any], ...] = (
    AUGMENTATIONS,
    LOSSES,
    HEADS,
    METRICS,
    SCHEDULES,
    OPTIMIZERS,
    DEBUGGER_RULES,
    PROFILER_RULES,
    REPORT_SECTIONS,
    LOGGERS,
    ENGINES,
    SOURCES,
    BACKENDS,
)
"""Every kind of component."""
