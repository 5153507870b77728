"""This machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breedlab.config import Config


class LocalBackend:
    """Runs in this process."""

    def plan(self, config: Config, resume: Path | None) -> str:
        from breedlab.plan import plan

        return plan(config, resume)

    def run(self, config: Config, overrides: list[str], resume: Path | None) -> Mapping[str, Any]:
        from breedlab.reporting.summary import show
        from breedlab.training.run import run

        result = run(config, overrides, resume)
        show(result)
        return {"run": str(result.run), **{f"test/{k}": v for k, v in result.metrics["test"]["metrics"].items()}}
