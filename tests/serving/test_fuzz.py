"""Whatever is sent, the handler answers with scores or with a 4xx, and the memory and time that
takes stay small.

The cases are the same each time. `BREEDLAB_FUZZ=100000 pytest tests/serving/test_fuzz.py` runs that
many others, drawn anew; what it finds is kept in .hypothesis/ and tried first the next time, until
it stands in `hostile.py`.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time

import hypothesis
import numpy as np
import pytest
from codes import raises_code
from hostile import costly_images, refused_bodies, refused_images, requests
from hypothesis import HealthCheck, given

from breedlab.serving import handler
from breedlab.serving.file_checks import inspect
from breedlab.serving.model import Model
from breedlab.serving.refusals import BadRequest
from breedlab.serving.response import NPY

_MORE = int(os.environ.get("BREEDLAB_FUZZ", "0"))
_SLOWEST_S = 2.0
_SETTINGS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": not _MORE,
    "print_blob": True,
}


def answer(model: Model, body: bytes, kind: str, accept: str) -> None:
    """Goes the handler's whole way; anything but scores or a BadRequest is an error of ours."""
    started = time.process_time()
    try:
        images = handler.input_fn(body, kind)
        found = handler.predict_fn(images, model)
        content, written = handler.output_fn(found, accept)
    except BadRequest as error:
        assert 400 <= error.status < 500 and str(error)
        assert (
            "Traceback" not in str(error)
            and "/site-packages/" not in str(error)
            and len(str(error)) < 500
        )
    else:
        rows = np.load(io.BytesIO(content)) if written == NPY else json.loads(content)
        rows = (
            [one.get("scores", one) for one in rows["predictions"]]
            if isinstance(rows, dict)
            else rows
        )
        assert len(rows) == len(images)
        errors = [row for row in rows if isinstance(row, dict)]
        assert all(set(one) == {"error", "code"} for one in errors) and len(errors) < len(images)
        rows = [row for row in rows if not isinstance(row, dict)]
        assert (
            np.shape(rows) == (len(images) - len(errors), len(model.classes))
            and np.isfinite(rows).all()
        )
    assert time.process_time() - started < _SLOWEST_S


@hypothesis.settings(max_examples=_MORE or 400, **_SETTINGS)
@given(requests())
def test_any_request_gets_scores_or_a_4xx(model: Model, sent: tuple[bytes, str, str]) -> None:
    answer(model, *sent)


@pytest.mark.slow
@hypothesis.settings(max_examples=_MORE or 5000, **_SETTINGS)
@hypothesis.seed(4)
@given(requests())
def test_thousands_of_requests_get_scores_or_a_4xx(
    model: Model, sent: tuple[bytes, str, str]
) -> None:
    answer(model, *sent)


@pytest.mark.parametrize("name", costly_images())
def test_images_are_looked_at_in_few_steps(name: str) -> None:
    """Counted, not timed: each call into a decoder, and each read, is one."""
    image, code, named = costly_images()[name]
    assert len(image) < 6_000_000
    steps = 0

    def count(_frame: object, event: str, _what: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        with raises_code(code, names=named):
            inspect(image)
    finally:
        sys.setprofile(None)
    assert steps < 50_000


@pytest.mark.parametrize("name", refused_images())
def test_images_that_no_server_should_take(model: Model, name: str) -> None:
    image, code, named = refused_images()[name]
    with raises_code(code, names=("the image ", named)) as caught:
        handler.predict_fn(handler.input_fn(image, "application/octet-stream"), model)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "name", [name for name in refused_bodies() if "over the limit" not in name]
)
def test_bodies_that_no_server_should_take(model: Model, name: str) -> None:
    body, kind, status, code, named = refused_bodies()[name]
    with raises_code(code, names=named) as caught:
        handler.predict_fn(handler.input_fn(body, kind or ""), model)
    assert caught.value.status == status
