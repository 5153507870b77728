"""The schema with what is registered in it: closed choices, and a section for each component that
has settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, BeforeValidator, Field, create_model
from pydantic_core import PydanticKnownError

from breedlab.errors import PluginError
from breedlab.registry import BACKENDS, REGISTRIES, Registry


@dataclass(frozen=True)
class Choice(BeforeValidator):
    """The mark of a field that names a component."""

    registry: Registry[Any] = field(kw_only=True)


def choice(registry: Registry[Any]) -> Choice:
    """Refuse a name that is not registered, with those that are."""

    def check(value: Any) -> Any:
        names = registry.choices()
        if value not in names:
            choices_text = (
                ", ".join(map(repr, names[:-1]))
                + (" or " if len(names) > 1 else "")
                + repr(names[-1])
            )
            raise PydanticKnownError("literal_error", {"expected": choices_text})
        return value

    return Choice(check, registry=registry)


def component_sections(searched: bool = False) -> dict[str, type[BaseModel]]:
    """Return the sections of registered components by config path, such as `data.blank`, in
    registration order.

    Args:
        searched: Only those whose settings a search may vary.
    """
    sections: dict[str, type[BaseModel]] = {}
    for registry in REGISTRIES:
        if not registry.section or (searched and not registry.searched):
            continue
        for name, component in registry.items():
            if component.model_fields:
                sections[f"{registry.section}.{name}"] = component
    return sections


def extended(base: type[BaseModel]) -> type[BaseModel]:
    """Return a schema with a section for each registered component that it has none for.

    Args:
        base: The schema as it is in the code.

    Raises:
        ConfigError: If a component has the name of a setting that is something else.
    """
    sections = []
    for registry in (registry for registry in REGISTRIES if registry.section):
        for name, component in registry.items():
            if component.model_fields and not _is_there(base, registry, name, component):
                sections.append((f"{registry.section}.{name}", component, registry.optional))
    return _extended(base, tuple(sections))


def endpoint_sections() -> dict[str, type[BaseModel]]:
    """Return backends' own settings of an endpoint by config path, such as `endpoint.ours`."""
    return {
        f"endpoint.{name}": backend.endpoint_settings
        for name, backend in BACKENDS.items()
        if backend.endpoint_settings is not None
    }


def with_endpoint_sections(base: type[BaseModel]) -> type[BaseModel]:
    """Return the schema of `breedlab deploy` with backends' own settings of an endpoint.

    Raises:
        PluginError: If a backend has the name of a setting.
    """
    endpoint = section_of(base.model_fields["endpoint"].annotation)
    assert endpoint is not None
    sections = endpoint_sections()
    for path, section in sections.items():
        if path.rpartition(".")[2] in endpoint.model_fields:
            raise PluginError(
                f"{section.__qualname__} of {section.__module__} has the name of the setting"
                f" {path}; register the backend under another"
            )
    return _extended(base, tuple((path, section, False) for path, section in sections.items()))


def _is_there(
    base: type[BaseModel], registry: Registry[Any], name: str, component: type[BaseModel]
) -> bool:
    section = base
    for part in registry.section.split("."):
        section = section_of(section.model_fields[part].annotation) or section
    there = section.model_fields.get(name)
    if there is not None and section_of(there.annotation) is not component:
        raise PluginError(
            f"{registry.kind} {name!r} of {component.__module__} has the name of the setting"
            f" {registry.section}.{name}; register it under another"
        )
    return there is not None


@lru_cache(maxsize=8)
def _extended(
    model: type[BaseModel], sections: tuple[tuple[str, type[BaseModel], bool], ...]
) -> type[BaseModel]:
    """Return a model with sections added at config paths."""
    if not sections:
        return model
    below: dict[str, list[tuple[str, type[BaseModel], bool]]] = {}
    fields: dict[str, Any] = {}
    for path, component, optional in sections:
        name, _, rest = path.partition(".")
        if rest:
            below.setdefault(name, []).append((rest, component, optional))
        elif optional:
            fields[name] = (component | None, None)
        else:
            fields[name] = (component, Field(default_factory=component))
    for name, inside in below.items():
        section = section_of(model.model_fields[name].annotation)
        assert section is not None, name
        wider = _extended(section, tuple(inside))
        required = model.model_fields[name].is_required()
        fields[name] = (wider, ... if required else Field(default_factory=wider))
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, None if it holds a value."""
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    return next(
        (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None
    )
