"""smdebug's hook, fixed: it never stops a training, can be removed again, and costs little per
step."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from breedlab.debugging import smdebug_compat  # noqa: F401  before smdebug
from breedlab.debugging.reader import BATCH_SIZE
from breedlab.debugging.reductions import Kind, bounds_of, reduce

from smdebug.core import singleton_utils  # isort: skip
from smdebug.core.utils import error_handling_agent  # isort: skip
from smdebug.pytorch import Hook, modes  # isort: skip

_SMALL = 65_536
"""Elements up to which a tensor is copied on its device and fetched when the step is over."""


class RunHook(Hook):  # type: ignore[misc]
    """A hook that registers on a network and its loss, and can be removed again.

    What smdebug writes is kept, names and files; what differs is when: reductions and small values
    wait on their device until the step is over, so that a GPU is not stopped for each of them.
    Only modules whose output is saved get hooks, and frozen parameters are not saved.
    """

    def __init__(self, **settings: Any) -> None:
        self.on_failure: Callable[[Exception], None] = lambda error: None
        self.own: dict[str, list[Kind]] = {}
        self.loss: nn.Module | None = None
        self.saves_outputs_of: Callable[[nn.Module], bool] = lambda module: True
        self._works = True
        self._named: list[nn.Module] = []
        self._added: list[tuple[dict[int, Any], int]] = []
        self._handles: list[Any] = []
        self._pending: list[tuple[str, list[Kind] | None, torch.Tensor]] = []
        self._before: list[tuple[str, nn.Parameter, torch.Tensor]] = []
        self._bounds: tuple[float, float] | None = None
        # an earlier hook's mishap is no reason to record nothing now
        error_handling_agent.disable_smdebug = False
        super().__init__(**settings)
        # It would keep the network alive, and write into a folder that may be gone, when Python
        # ends.
        atexit.unregister(self._cleanup)

    # What smdebug would do unasked.

    def has_default_configuration(self) -> bool:
        return False  # then it would swallow errors, print their traces and switch itself off

    def _initialize_to_last_saved_state(self) -> None:
        pass  # it would search the checkpoint folder of a SageMaker job, at every step

    def _write_state(self) -> None:
        pass

    def __deepcopy__(self, memo: dict[int, Any]) -> RunHook:
        return self  # an averaged copy of the network; smdebug's own copy is a hook without insides

    # Registration.

    def register(self, network: nn.Module, entry: nn.Module, loss: nn.Module) -> None:
        """Register the hook.

        Args:
            network: Its parameters and modules give the tensors their names.
            entry: What runs first in a step, mostly the network itself.
            loss: The criterion.
        """
        self.loss = loss
        if any(
            getattr(module, "_compiled_call_impl", None) is not None for module in (network, entry)
        ):
            # Dynamo cannot trace what smdebug does; the graph is cut before the network, not
            # within.
            self.forward_pre_hook = torch.compiler.disable(self.forward_pre_hook)  # type: ignore
        self._named = [*network.modules(), loss]
        tables = [table for module in (*self._named, entry) for table in _tables(module)]
        before = [set(table) for table in tables]
        self.register_module(network)
        if entry is not network:
            entry.register_forward_pre_hook(
                lambda _module, inputs: self.forward_pre_hook(network, inputs)
            )
        self.register_loss(loss)
        pairs = zip(tables, before, strict=True)
        self._added = [(table, key) for table, old in pairs for key in table if key not in old]
        # smdebug would write the collections with the second step: too late for anyone who reads
        # along.
        self._prepare_collections()
        self.prepared_collections = True
        self.export_collections()
        self.exported_collections = True

    def start_at(self, train: int, evaluated: int) -> None:
        """Continue counting after so many training steps and validation batches, in both of
        smdebug's counters: global steps, and steps by mode."""
        self.step = self.init_step = train + evaluated - 1
        counts = {
            modes.TRAIN: train,
            modes.EVAL: evaluated,
            modes.PREDICT: 0,
            modes.GLOBAL: train + evaluated,
        }
        self.mode_steps = {mode: count - 1 for mode, count in counts.items()}

    def end(self) -> None:
        """Remove the hook and close its files."""
        for table, key in self._added:
            table.pop(key, None)
        for handle in self._handles:
            handle.remove()
        for module in self._named:
            module.__dict__.pop("_module_name", None)
        if self._works:
            self._safely(self.close)
        if not self._works:
            self._remove_unfinished()
        self._added, self._handles, self._before, self._pending = [], [], [], []
        self._named, self.loss, self.writer = [], None, None
        self.module_set.clear()
        self._works = False
        singleton_utils.del_hook()
        error_handling_agent.set_hook(None)

    def _remove_unfinished(self) -> None:
        """Remove the files of the step that could not be written: nothing reads them, and the disk
        may be full."""
        for unfinished in Path(self.out_dir).rglob("*.tmp"):
            with contextlib.suppress(OSError):
                unfinished.unlink()

    def _closure_for_registering_forward_hook(self, module: nn.Module) -> None:
        if self.saves_outputs_of(module):
            module.register_forward_hook(self.forward_hook)

    def _backward_apply(self, module: nn.Module) -> None:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                hook = self.backward_hook(f"{_name(module)}_{name}")
                self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]

    # A step, from its forward pass to its update.

    def forward_pre_hook(self, module: nn.Module, inputs: Any) -> None:
        self._safely(self._step_begins, module, inputs)

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._safely(self._module_ran, module, inputs, outputs)

    def fhook(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass  # smdebug's Python profiler

    def backward_hook(self, tname: str) -> Callable[[torch.Tensor], None]:
        name = self.GRADIENT_PREFIX + tname

        def back(gradient: torch.Tensor) -> None:
            self._safely(self._save_for_tensor, name, gradient)

        return back

    def step_is_over(self) -> None:
        """Save what depends on the new weights; call it after each step of the optimizer."""
        self._safely(self._weights_moved)

    def flush(self) -> None:
        """Close the files of the finished step, so that they can be read."""
        self._safely(self._close_writers)

    def set_mode(self, mode: Any) -> None:
        if mode != self.mode:
            # what is still to be written belongs to the old mode's step
            self._safely(self._close_writers)
        super().set_mode(mode)

    def _step_begins(self, network: nn.Module, inputs: Any) -> None:
        super().forward_pre_hook(network, inputs)
        self._before = []
        if self.mode == modes.TRAIN and ("update", False) in self.own.get("weights", ()):
            saved = self._get_collections_to_save_for_step()
            if self.collection_manager.get("weights") in saved:
                parameters = [(f"{_name(network)}_{name}", p) for name, p in _trained(network)]
                weights = [(name, p) for name, p in parameters if self._is_in(name, "weights")]
                self._before = [(name, p, p.detach().clone()) for name, p in weights]

    def _module_ran(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self._bounds = bounds_of(module)
        super().forward_hook(module, inputs, outputs)
        if module is self.loss and len(inputs) == 2:
            logits, labels = inputs
            # Multi-label images have no single class that the rules on labels could judge.
            several = bool(getattr(module, "multi_label", False))
            if self._is_saved("labels") and not several:
                self._save_for_tensor("labels", labels if labels.ndim == 1 else labels.argmax(1))
            else:
                self._save_for_tensor(BATCH_SIZE, torch.tensor(len(labels)))
            if self._is_saved("predictions") and not several:
                self._save_for_tensor("predictions", logits.detach().argmax(1))

    def _weights_moved(self) -> None:
        if not self._before:
            return
        old = [before for _, _, before in self._before]
        changes = torch._foreach_sub([p.detach() for _, p, _ in self._before], old)
        norms, sizes = torch._foreach_norm(changes), torch._foreach_norm(old)
        ratios = torch.stack(norms) / torch.stack(sizes).clamp(min=1e-12)
        for (name, _, _), ratio in zip(self._before, ratios, strict=True):
            self._pending.append((name, [("update", False)], ratio.view(1)))
        self._before = []

    # What smdebug writes.

    def _log_params(self, module: nn.Module) -> None:
        for name, parameter in _trained(module):
            self._save_for_tensor(f"{_name(module)}_{name}", parameter.detach())

    def _save_for_tensor(
        self, tensor_name: str, tensor_value: Any, check_before_write: bool = True
    ) -> None:
        saved = (
            self._get_collections_with_tensor(tensor_name)
            & self._get_collections_to_save_for_step()
        )
        if saved and tensor_value is not None and tensor_value.numel():
            self._write_for_tensor(tensor_name, tensor_value, saved)

    def _write_shape(
        self, tensor_name: str, tensor_value: Any, save_collections: Any, tensor_ref: Any = None
    ) -> None:
        if any(collection.reduction_config.save_shape for collection in save_collections):
            for writer in self._get_writers(tensor_name):
                writer.write_shape(
                    tensor_name, tuple(tensor_value.shape), self.mode, self.mode_steps[self.mode]
                )

    def _write_reductions(
        self, tensor_name: str, tensor_value: Any, save_collections: Any, tensor_ref: Any = None
    ) -> None:
        kinds: dict[Kind, None] = {}
        for collection in save_collections:
            reductions = collection.reduction_config
            kinds |= dict.fromkeys(
                (name, False) for name in (*reductions.reductions, *reductions.norms)
            )
            kinds |= dict.fromkeys(
                (name, True) for name in (*reductions.abs_reductions, *reductions.abs_norms)
            )
            kinds |= dict.fromkeys(
                kind for kind in self.own.get(collection.name, ()) if kind[0] != "update"
            )
        if kinds:
            self._pending.append(
                (tensor_name, list(kinds), reduce(tensor_value, list(kinds), self._bounds))
            )

    def _write_raw_tensor_simple(
        self, tensor_name: str, tensor_value: Any, tensor_ref: Any = None, timestamp: Any = None
    ) -> None:
        if isinstance(tensor_value, torch.Tensor) and tensor_value.numel() <= _SMALL:
            self._pending.append((tensor_name, None, tensor_value.detach().clone()))
        else:
            super()._write_raw_tensor_simple(tensor_name, tensor_value, tensor_ref, timestamp)

    def _close_writers(self) -> None:
        self._write_pending()
        super()._close_writers()

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, []
        if not pending or self.writer is None:
            return
        reduced = [values for _, kinds, values in pending if kinds is not None]
        figures = iter(
            torch.cat([values.to(reduced[0].device) for values in reduced]).cpu().numpy()
            if reduced
            else ()
        )
        for name, kinds, values in pending:
            if kinds is None:
                super()._write_raw_tensor_simple(name, self._make_numpy_array(values))
                continue
            for kind, absolute in kinds:
                reduction = self._get_reduction_tensor_name(name, kind, absolute)
                super()._write_raw_tensor_simple(reduction, np.asarray(next(figures)))

    @staticmethod
    def _make_numpy_array(tensor_value: Any) -> Any:
        if not isinstance(tensor_value, torch.Tensor):
            return np.asarray(tensor_value)
        tensor = tensor_value.detach()
        # numpy has no bfloat16
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()

    def _is_saved(self, collection: str) -> bool:
        return self.collection_manager.get(collection) in self._get_collections_to_save_for_step()

    def _is_in(self, tensor_name: str, collection: str) -> bool:
        return self.collection_manager.get(collection) in self._get_collections_with_tensor(
            tensor_name
        )

    def _safely(self, action: Callable[..., object], *args: Any) -> None:
        if not self._works:
            return
        try:
            action(*args)
        except Exception as error:
            self._works = False
            self.on_failure(error)


def _tables(module: nn.Module) -> Iterator[dict[int, Any]]:
    yield module._forward_pre_hooks
    yield module._forward_hooks


def _name(module: nn.Module) -> str:
    """Return smdebug's name for a module."""
    return type(module).__name__


def _trained(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return (
        (name, parameter)
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    )
