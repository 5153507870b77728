"""Which backends offer an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from breedlab.backends.base import Backend
from breedlab.errors import BackendError
from breedlab.registry import BACKENDS

T = TypeVar("T")


def offering(ask: Callable[[Backend], T | None]) -> dict[str, T]:
    """Return what carries an operation out, by the name of each backend that offers it.

    Args:
        ask: Asks a backend for it, such as `lambda backend: backend.batch_jobs()`.
    """
    offers: dict[str, T] = {}
    for name, kind in BACKENDS.items():
        if any(field.is_required() for field in kind.model_fields.values()):
            continue  # it cannot be asked without a config
        answer = ask(kind().build())
        if answer is not None:
            offers[name] = answer
    return offers


def offered(operation: str, ask: Callable[[Backend], T | None], name: str | None = None) -> T:
    """Return what carries an operation out, of a named backend or of the first that offers it.

    Args:
        operation: What a message calls it, such as "batch jobs".
        ask: As in `offering`.
        name: The backend's; None for any.

    Raises:
        BreedlabError: If there is no such backend, or it does not offer this.
    """
    offers = offering(ask)
    if name is None and offers:
        return next(iter(offers.values()))
    if name in offers:
        return offers[name]
    if name is None:
        raise BackendError(f"no backend offers {operation}")
    BACKENDS.get(name)
    raise not_offered(name, operation, ask)


def not_offered(name: str, operation: str, ask: Callable[[Backend], T | None]) -> BackendError:
    """Return the error of a backend that does not offer an operation."""
    others = ", ".join(offering(ask)) or "a backend from a plugin"
    return BackendError(f"backend {name}: does not offer {operation}; expected {others}")
