"""Which calls our client makes: each is noted as it leaves, under the command that is being run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.client import BaseClient
from documented_sentences import limiting_sentences, listed

from breedlab.backends.sagemaker.session import USER_AGENT

Call = tuple[str, dict[str, Any]]


class Recorder:
    """Notes calls.

    Attributes:
        calls: Since the last `clear`: the service and operation, and what was asked.
        by_command: The names of those made under `running`.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.by_command: dict[str, set[str]] = defaultdict(set)
        self._command: str | None = None

    def clear(self) -> None:
        self.calls.clear()
        self.by_command.clear()

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        self._command = command
        try:
            yield
        finally:
            self._command = None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have every call of the product's clients noted; those that tests make themselves are
        not."""
        made = BaseClient._make_api_call

        def noted(client: BaseClient, operation: str, parameters: dict[str, Any]) -> Any:
            if USER_AGENT in (client.meta.config.user_agent_extra or ""):
                name = f"{client.meta.service_model.signing_name}:{operation}"
                self.calls.append((name, parameters))
                if name.startswith(("sagemaker:Create", "sagemaker:Update", "sagemaker:Start")):
                    new = limiting_sentences(operation, parameters) - listed().keys()
                    assert not new, f"{operation}: documented_sentences.txt lacks {new}"
                if self._command is not None:
                    self.by_command[self._command].add(name)
            return made(client, operation, parameters)

        patch.setattr(BaseClient, "_make_api_call", noted)
