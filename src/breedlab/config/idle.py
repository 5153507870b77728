"""Settings that somebody asked for and that another setting switches off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from breedlab import distributed
from breedlab.console import warn

if TYPE_CHECKING:
    from breedlab.config.schema import Config


@dataclass(frozen=True)
class _Switch:
    """What makes the rest of a section count.

    Attributes:
        path: The setting that does.
        off: Its value where nothing else in the section counts.
        remedy: How to switch it on.
    """

    path: str
    off: Any
    remedy: str

    @property
    def section(self) -> str:
        return self.path.partition(".")[0]

    def value(self, config: Config) -> Any:
        return attrgetter(self.path)(config)


_SWITCHES = (
    _Switch("fine_tune.epochs", 0, "fine_tune.epochs=8 fine-tunes"),
    _Switch("tuner.strategy", "none", "tuner=bayesian or auto searches"),
    _Switch("debugger.level", "none", "debugger=default records"),
    _Switch("profiler.level", "none", "profiler=system records"),
)


def warn_of_idle(config: Config, overrides: Iterable[str]) -> None:
    """Warn of each override of a setting that does nothing in this config."""
    if distributed.is_main():
        for text in without_effect(config, overrides):
            warn(text)


def without_effect(config: Config, overrides: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each override of a setting that does nothing in this config."""
    off = {switch.section: switch for switch in _SWITCHES if switch.value(config) == switch.off}
    for word in overrides:
        path = word.partition("=")[0].lstrip("+")
        section, dot, _ = path.partition(".")
        if dot and (switch := off.get(section)) and path != switch.path:
            yield (
                f"{path} has no effect with {switch.path}={switch.off}; {switch.remedy}, or leave"
                " it out"
            )
