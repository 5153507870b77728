"""This machine."""

from __future__ import annotations

import atexit
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

from breedlab import config as configs
from breedlab import distributed, extras
from breedlab.backends.base import Backend, Handle
from breedlab.config import Config
from breedlab.console import note
from breedlab.errors import ServingError
from breedlab.training.logger_kinds import require_extra

if TYPE_CHECKING:
    import lightning

    from breedlab.pipeline.run import TrainResult


class LocalBackend(Backend):
    """A backend that runs in this process: what it submits has ended when it is returned."""

    def __init__(self) -> None:
        # by address; they end with the process
        self._servers: dict[str, subprocess.Popen[str]] = {}

    def without_missing_extras(
        self, config: Config, overrides: list[str]
    ) -> tuple[Config, list[str]]:
        chosen_explicitly = any(
            word.lstrip("+~").startswith(("debugger=", "debugger.")) for word in overrides
        )
        if chosen_explicitly or config.debugger.level == "none" or extras.has("debugger"):
            return config, overrides
        if distributed.is_main():
            note(
                "debugger=none: smdebug is not installed, so training is not recorded"
                f" ({extras.install('debugger')})"
            )
        return configs.replace(config, {"debugger.level": "none"}), [*overrides, "debugger=none"]

    def plan(self, config: Config, resume: Path | None) -> str:
        from breedlab.pipeline.plan import plan

        require_extras(config)
        return plan(config, resume)

    def submit(self, config: Config, overrides: list[str], resume: Path | None) -> Handle:
        return self._submit(config, overrides, resume, ())

    def run(
        self,
        config: Config,
        overrides: list[str],
        resume: Path | None,
        callbacks: Sequence[lightning.Callback] = (),
    ) -> Mapping[str, Any]:
        if not callbacks:  # by `submit`, which a backend of this kind may extend
            return self.submit(config, overrides, resume).results()
        return self._submit(config, overrides, resume, callbacks).results()

    def _submit(
        self,
        config: Config,
        overrides: list[str],
        resume: Path | None,
        callbacks: Sequence[lightning.Callback],
    ) -> LocalRun:
        from breedlab.pipeline.run import run

        require_extras(config)
        return LocalRun(config, run(config, overrides, resume, callbacks=callbacks))

    def deploy(self, model: Path) -> str:
        words = [sys.executable, "-u", "-m", "breedlab.cli", "serve", str(model), "--port", "0"]
        server = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        atexit.register(server.terminate)
        assert server.stderr
        output = []
        for line in server.stderr:
            output.append(line)
            if address := re.search(r"listening on (http://\S+?):? ", line):
                Thread(target=_drain, args=(server.stderr,), daemon=True).start()
                self._servers[address[1]] = server
                return address[1]
        raise ServingError(
            "".join(output).strip() or f"{model}: the server exited before it was listening"
        )

    def delete(self, endpoint: str) -> None:
        if endpoint not in self._servers:
            raise ServingError(
                f"{endpoint}: this backend serves nothing there; expected an address that its"
                " deploy returned"
            )
        server = self._servers.pop(endpoint)
        server.terminate()
        server.wait()


class LocalRun(Handle):
    """A run that ended here."""

    def __init__(self, config: Config, result: TrainResult) -> None:
        self._config, self._result = config, result
        self.name, self.experiment, self.run = str(result.run), config.name, result.run

    def config(self) -> Config:
        return self._config

    def status(self) -> str:
        return "complete"

    def logs(self, trial: int | None = None) -> Iterator[tuple[str, Iterable[str]]]:
        return iter(())  # it was printed as it ran

    def stop(self) -> list[str]:
        return [f"nothing to stop: {self.name}: complete"]

    def results(self, *, now: bool = False) -> Mapping[str, Any]:
        from breedlab.reporting.summary import show

        run, metrics = self._result.run, self._result.metrics
        show(run, metrics)
        test = {f"test/{name}": value for name, value in metrics["test"]["metrics"].items()}
        mode = self._config.monitor.mode
        return {"run": str(run), "mode": mode, **_validation(self._result), **test}


def require_extras(config: Config) -> None:
    """Refuse a run whose debugger, logger, or backbone is not installed here, before it trains.

    Raises:
        MissingExtra: If it is not.
    """
    if config.debugger.level != "none":
        extras.require("debugger", f"debugger={config.debugger.level} (or set debugger=none)")
    require_extra(config)
    extras.require_backbone(config.model.name, config.model.weights)


def _validation(result: TrainResult) -> dict[str, Any]:
    """Return how good the run is on its validation split: by this runs are compared, never by the
    test."""
    from breedlab.reporting.record import read_curves

    monitor, epoch = result.metrics["monitor"], result.metrics["training"]["best_epoch"]
    losses = [
        loss for _, loss in read_curves(result.run / "tensorboard" / "final").get("valid/loss", [])
    ]
    loss = losses[epoch - 1] if epoch <= len(losses) else None  # one an epoch
    return {"metric": monitor["metric"], "best": monitor["best"], "valid/loss": loss}


def _drain(stream: IO[str]) -> None:
    """Keep reading: a full pipe would block the server."""
    for _ in stream:
        pass
