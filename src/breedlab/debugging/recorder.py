"""Record a training's tensors with smdebug's hook: a Lightning callback that does not change the
training."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from torch import nn

from breedlab.config import Config
from breedlab.config.debugger import Debugger
from breedlab.console import note, warn
from breedlab.debugging.actions import actions_of
from breedlab.verdicts import Verdict

if TYPE_CHECKING:
    from breedlab.debugging.hook import RunHook
    from breedlab.debugging.rule_runner import RuleRunner


def sagemaker_file() -> Path | None:
    """Return SageMaker's file for the hook, if there is one."""
    path = Path(
        os.environ.get("SMDEBUG_CONFIG_FILE_PATH", "/opt/ml/input/config/debughookconfig.json")
    )
    return path if path.is_file() else None


def records(config: Config) -> bool:
    """Return whether to record a run's training."""
    return config.debugger.level != "none" or sagemaker_file() is not None


class Recorder(lightning.Callback):
    """A callback that registers a hook when training begins and removes it when training ends,
    however it ends.

    Each registration writes a new `debug/N`: one when training begins or is resumed, and another
    whenever layers have been frozen or unfrozen since, because smdebug watches the gradients of
    only those parameters that required one at registration.

    At the end of each epoch the rules look at what has been recorded: one that fires is reported,
    or ends the training, as its `action` says.

    Args:
        config: The config's debugger.
        run: The run directory; `debug/` is made in it.

    Attributes:
        ended: Why a rule ended the training; empty where none did.
    """

    def __init__(self, config: Debugger, run: Path) -> None:
        self.config, self.run, self.folder = config, run, run / "debug"
        self.hook: RunHook | None = None
        self.ended = ""
        self._watch: RuleRunner | None = None
        self._reported_rules: set[str] = set()
        self._failed = False
        self._trained: frozenset[str] = frozenset()
        self._reserve = 0

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._enter("TRAIN")

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        # Not when the epoch starts: that is where other callbacks freeze and unfreeze.
        if self.hook is None or (batch_idx == 0 and self._trained != _trained(pl_module)):
            self._begin(trainer, pl_module)
            self._enter("TRAIN")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.hook is not None:
            self.hook.step_is_over()
            self._refuse_without_room()

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._alone(trainer, pl_module)
        self._enter("EVAL")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self._enter("TRAIN")

    def on_test_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._alone(trainer, pl_module)
        self._enter("EVAL")

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._alone(trainer, pl_module)
        self._enter("PREDICT")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        fired = self._look(trainer) if self.hook is not None else []
        names = [verdict.rule for verdict, action in fired if action == "stop"]
        if trainer.strategy.reduce_boolean_decision(bool(names), all=False):
            trainer.should_stop = True
            by = ", ".join(names) or "a rule on the first rank"
            self.ended = f"stopped after epoch {trainer.current_epoch + 1} by the debugger: {by}"

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException
    ) -> None:
        recorded = self.hook is not None
        self.end()
        # what went wrong is what the rules are for
        if recorded and isinstance(exception, Exception):
            from breedlab.debugging.rule_runner import conclude

            conclude(self.run, self.config.rules)

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self.end()

    def end(self) -> None:
        """Remove the hook; its files stay."""
        hook, self.hook = self.hook, None
        if hook is not None:
            hook.end()

    def _look(self, trainer: lightning.Trainer) -> list[tuple[Verdict, str]]:
        """Return the rules that have fired since the last epoch, each with the config's action."""
        from breedlab.debugging.rule_runner import RuleRunner

        assert self.hook is not None
        self.hook.flush()
        try:
            if self._watch is None:
                self._watch = RuleRunner(self.run, self.config.rules)
                self._watch.reported_rules |= self._reported_rules
            actions = [(verdict, self._watch.action(verdict)) for verdict in self._watch.look()]
        except Exception as error:
            self._give_up(error)
            return []
        for verdict, _ in actions:
            self._tell(verdict, trainer)
        return actions

    def _tell(self, verdict: Verdict, trainer: lightning.Trainer) -> None:
        warn(f"{verdict.rule}: {verdict.meaning}")
        for action in actions_of(verdict.rule, trainer):
            try:
                action(verdict)
            except Exception as error:
                warn(
                    f"{verdict.rule}: what was to be done then failed:"
                    f" {' '.join(str(error).split())}"
                )

    def _alone(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Register the hook for validation, test or prediction without training before, too."""
        if self.hook is None:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.end()
        if self._failed or not trainer.is_global_zero:
            return
        self._trained = _trained(pl_module)
        already_reported = set() if self._watch is None else self._watch.reported_rules
        self._reserve = _bytes_to_come(pl_module.classifier)
        self._refuse_without_room()
        if self._failed:
            return
        try:
            self.hook = self._made(pl_module)
            self.hook.on_failure = self._give_up
            batches = sum(int(count) for count in trainer.num_val_batches if count != float("inf"))
            self.hook.start_at(trainer.global_step, trainer.current_epoch * batches)
            self.hook.register(pl_module.classifier, pl_module.entry, pl_module.criterion)
        except Exception as error:
            self._give_up(error)
        self._watch, self._reported_rules = None, already_reported  # a new folder is a new trial

    def _made(self, pl_module: Any) -> RunHook:
        from breedlab.debugging import collections

        network: nn.Module = pl_module.classifier
        folder = self._fresh()
        if (source := sagemaker_file()) is not None:
            note(f"debugger: as {source} says")
            return collections.hook_from_json(source, folder, network)
        compiled = getattr(network, "_compiled_call_impl", None) is not None
        return collections.hook_from_config(self.config, folder, network, outputs=not compiled)

    def _fresh(self) -> Path:
        """Create and return a new `debug/N`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = (
            max(
                (int(folder.name) for folder in self.folder.iterdir() if folder.name.isdecimal()),
                default=-1,
            )
            + 1
        )
        folder = self.folder / str(number)
        folder.mkdir()
        return folder

    def _refuse_without_room(self) -> None:
        """Give up while there still is room for what the run itself will write: the recording is
        the lesser loss."""
        try:
            free = shutil.disk_usage(self.run).free
        except OSError as error:
            self._give_up(error)
            return
        if free < self._reserve:
            available, needed = f"{free / 1e6:,.0f} MB", f"{self._reserve / 1e6:,.0f} MB"
            reason = (
                f"{available} are left on its disk, and checkpoints and export may take {needed}"
            )
            self._give_up(OSError(f"{self.run}: {reason}"))

    def _enter(self, mode: str) -> None:
        if self.hook is not None:
            from smdebug import modes

            self.hook.set_mode(modes[mode])

    def _give_up(self, error: Exception) -> None:
        self.end()
        if not self._failed:
            self._failed = True
            reason = " ".join(str(error).split()) or type(error).__name__
            warn(f"the debugger stopped, and training continues: {reason}")


def _trained(pl_module: Any) -> frozenset[str]:
    return frozenset(
        name
        for name, parameter in pl_module.classifier.named_parameters()
        if parameter.requires_grad
    )


def _bytes_to_come(network: nn.Module) -> int:
    """Return the bytes of three checkpoints (best, last, one being written) with an optimizer's two
    moments, and of two archives."""
    tensors = [*network.parameters(), *network.buffers()]
    state = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    moments = 2 * sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    return 3 * (state + moments) + 2 * state
