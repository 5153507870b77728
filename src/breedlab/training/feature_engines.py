"""The engines that can compute the frozen part of a network: PyTorch, compiled PyTorch,
OpenVINO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from breedlab.models import openvino_core, openvino_export
from breedlab.models.classifier import Classifier
from breedlab.training.precision import autocast

BATCH = 32
"""Images that are computed at once."""
_MOST_STREAMS = 4


class Engine(Protocol):
    """What computes the boundary's activations of uint8 images (n, 3, side, side)."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...

    def stream(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the activations of one batch after another, in order; several batches may be
        computed at once."""
        ...


class Eager:
    """PyTorch as it is written."""

    def __init__(self, classifier: Classifier, device: torch.device, precision: str) -> None:
        self._classifier = classifier.to(device).eval()
        self._device, self._precision = device, precision

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        with autocast(self._device, self._precision):
            return self._classifier.to_boundary(images.to(self._device))

    def stream(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        return map(self, batches)


class Compiled(Eager):
    """PyTorch compiled for whole batches, on CPUs with the weights as constants."""

    def __init__(self, classifier: Classifier, device: torch.device, precision: str) -> None:
        super().__init__(classifier, device, precision)
        self._compiled = torch.compile(classifier.backbone)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        import torch._inductor.config as inductor

        count = len(images)
        if count < BATCH:  # another size would be compiled again
            images = torch.cat([images, images.new_zeros(BATCH - count, *images.shape[1:])])
        with (
            inductor.patch(freezing=self._device.type == "cpu"),
            autocast(self._device, self._precision),
        ):
            out: torch.Tensor = self._compiled(self._classifier.normalized(images.to(self._device)))
        return out[:count]


class OpenVino:
    """OpenVINO on the CPU, one batch per stream, so that no thread waits for another's part of a
    layer."""

    def __init__(self, classifier: Classifier, precision: str) -> None:
        threads = torch.get_num_threads()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            graph = openvino_export.convert(_UpToBoundary(classifier.cpu().eval()), classifier.side)
        streams = min(threads, _MOST_STREAMS)
        settings = openvino_core.settings(precision, threads, streams)
        compiled = openvino_core.core().compile_model(graph, "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return next(self.stream([images]))

    def stream(self, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        free = list(self._requests)
        at_work: deque[tuple[Any, Any]] = deque()

        def first() -> torch.Tensor:
            request, _ = at_work.popleft()
            request.wait()
            free.append(request)
            return torch.from_numpy(request.get_output_tensor(0).data.copy())

        try:
            for images in batches:
                if not free:
                    yield first()
                request, pixels = free.pop(), images.contiguous().numpy()
                request.start_async([pixels], share_inputs=True)
                at_work.append((request, pixels))  # the tensor has to live until it is computed
            while at_work:
                yield first()
        finally:
            for request, _ in at_work:
                request.wait()


class _UpToBoundary(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.to_boundary(images)
