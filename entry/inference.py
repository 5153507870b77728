"""What SageMaker's PyTorch container imports: our handler, its refusals told as the toolkit's
answers.

The toolkit appends the traceback to whatever is raised, so nothing is: a failure travels to
`output_fn`, which sets the status and answers `{"error": ...}`, as scripts/serve.py does.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from breedlab.serving import handler
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadRequest, error_body
from breedlab.serving.request_parser import JSON

# The packages that the archive's run named in `plugins`: its head or its engine may be one of
# theirs.
if (_named := Path(__file__).with_name("plugins.txt")).is_file():
    for _name in _named.read_text().split():
        try:
            import_module(_name)
        except Exception as error:  # where it is needed after all, the model says so
            logging.getLogger().warning("the plugin %s cannot be imported: %s", _name, error)

__all__ = ["input_fn", "model_fn", "output_fn", "predict_fn"]

# It decodes JSON before input_fn sees it, and where that is no UTF-8 it answers 500. We read the
# bytes.
try:
    from sagemaker_inference import content_types
except ImportError:  # not in the container
    pass
else:
    content_types.UTF8_TYPES = []


@dataclass(frozen=True)
class _Failure:
    status: int
    answer: dict[str, str]


def model_fn(model_dir: str) -> Model:
    """Load the model and run one blank image through it: the first pass sets much up, and no client
    should wait for that."""
    # without a number of its own, TorchServe starts a worker a core
    if "OMP_NUM_THREADS" not in os.environ:
        cores = os.cpu_count() or 1
        torch.set_num_threads(
            max(1, cores // int(os.environ.get("SAGEMAKER_MODEL_SERVER_WORKERS") or cores))
        )
    model = handler.model_fn(model_dir)
    side = model.transform.crop
    model.scores(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return model


def input_fn(body: bytes | str, content_type: str) -> Any:
    """Return the request's images, or why there are none."""
    return _tried(handler.input_fn, body, content_type)


def predict_fn(images: Any, model: Model) -> Any:
    """Their scores, or why there are none."""
    return images if isinstance(images, _Failure) else _tried(handler.predict_fn, images, model)


def output_fn(answer: Any, accept: str, context: Any = None) -> tuple[bytes, str]:
    """Return the answer's bytes and content type; for a failure, the status, too."""
    result = answer if isinstance(answer, _Failure) else _tried(handler.output_fn, answer, accept)
    if not isinstance(result, _Failure):
        return result  # type: ignore[no-any-return]
    if context is not None:
        context.set_response_status(code=result.status, phrase=HTTPStatus(result.status).phrase)
    return json.dumps(result.answer).encode(), JSON


def _tried(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except BadRequest as error:
        return _Failure(error.status, error.answer())
    except Exception:  # told in the log, not to the client
        logging.getLogger().exception("the request failed")
        return _Failure(500, error_body(500, "the server failed; its log says more"))
