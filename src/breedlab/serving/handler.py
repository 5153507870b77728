"""The endpoint's four functions, and the model behind them. `predict` and `evaluate` use the same
model.

SageMaker's PyTorch container calls model_fn once, then input_fn, predict_fn and output_fn for each
request.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

try:
    from orjson import dumps as _dumped  # in a tenth of the time, which for 133 scores is felt
except ImportError:  # AWS's inference image may lack it; the numbers are the same

    def _dumped(tree: Any, /) -> bytes:  # type: ignore[misc]
        return json.dumps(tree).encode()


from breedlab.data.decode import BadPhoto, decode
from breedlab.data.transforms import EvalTransform
from breedlab.errors import BreedlabError, ServingError
from breedlab.models import backbone as backbones
from breedlab.models.classifier import MLP, Architecture, Classifier
from breedlab.serving import file_checks
from breedlab.serving.answers import AnsweringEngine, read_answers
from breedlab.serving.description import read_description
from breedlab.serving.engines import load_engine
from breedlab.serving.fetch import Fetcher, NotFetched, allowed_from
from breedlab.serving.novelty import WithFeatures, read_novelty
from breedlab.serving.request_parser import JSON as JSON
from breedlab.serving.request_parser import MAX_BYTES as MAX_BYTES
from breedlab.serving.request_parser import MAX_PHOTOS as MAX_PHOTOS
from breedlab.serving.request_parser import PHOTO_TYPES as PHOTO_TYPES
from breedlab.serving.request_parser import BadRequest as BadRequest
from breedlab.serving.request_parser import Photo as Photo
from breedlab.serving.request_parser import named, parse

NPY = "application/x-npy"
TOP = 5
"""How many classes a verbose answer ranks."""
_LAST_LAYER = 100_000_000
"""Parameters that a network may have in the layers that are cut off: ImageNet-22k's classes, of the
widest features."""
_MAX_ACCEPT = 1000
"""Characters of an Accept header; browsers send some 150."""
_PUBLIC = ("experiment", "run", "started", "git", "test", "test_intervals")
"""Of the lineage, what a stranger is told. A run is named by its time, not by its path."""


def _architecture(shape: dict[str, Any]) -> Architecture:
    try:
        return Architecture(**shape)
    except TypeError as error:
        # A field that changes what the network answers must not be passed over
        known = {one.name for one in fields(Architecture)}
        more = ", ".join(sorted(set(shape) - known)) or str(error)
        raise ServingError(
            f"model.json: architecture has what this breedlab does not know ({more}); upgrade"
        ) from error


def _weights(file: Path, architecture: Architecture) -> dict[str, torch.Tensor]:
    """The tensors of a file, once they are found to be those of such a head: what is built has its
    widths."""
    try:
        weights = load_file(str(file))
    except FileNotFoundError as error:
        raise ServingError(f"{file.name}: is missing; export the model again") from error
    # Of a damaged file safetensors raises its own kinds, and OSError, ValueError, KeyError.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise ServingError(
            f"{file.name}: is damaged or no safetensors file ({reason}); export it again"
        ) from error
    heads = [
        value.shape[0]
        for name, value in weights.items()
        if name.startswith("head.") and value.ndim == 2
    ]
    if architecture.head_type == MLP and sorted(heads) != sorted(
        (*architecture.head, architecture.classes)
    ):
        said = [*architecture.head, architecture.classes]
        raise ServingError(
            f"{file.name}: its head has layers of {heads[:9]}; model.json says {said[:9]}"
        )
    return weights


def _refuse_a_giant(architecture: Architecture, weights: dict[str, torch.Tensor]) -> None:
    """Raise if a few numbers come with the name of a network of billions, before memory is taken
    for those."""
    here = sum(value.numel() for value in weights.values())
    expected = backbones.parameters_of(architecture.name, architecture.tag)
    # which the archive's network lacks
    if expected is not None and expected > 2 * here + _LAST_LAYER:
        raise ServingError(
            f"model.safetensors: holds {here:,} numbers; {architecture.name} has some {expected:,};"
            " export it again"
        )


def _load(network: Classifier, weights: dict[str, torch.Tensor]) -> None:
    """Load weights that are the network's in name, shape and type, and all of them numbers."""
    own = network.state_dict()
    wrong = [f"lacks {name}" for name in own if name not in weights]
    wrong += [f"has {name}, which the network lacks" for name in weights if name not in own]
    for name, value in weights.items():
        if name in own and (value.shape, value.dtype) != (own[name].shape, own[name].dtype):
            given, expected = (
                (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in (value, own[name])
            )
            wrong.append(f"{name} is {given}; expected {expected}")
        elif value.is_floating_point() and not value.isfinite().all():
            wrong.append(f"{name} holds NaN or infinity")
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ServingError(
            f"model.safetensors: {'; '.join(wrong[:2])}{more}; export the model again"
        )
    network.load_state_dict(weights)


class Model:
    """An exported model, ready to look at photos.

    Args:
        folder: An archive's content, unpacked.
        device: Where to compute; a GPU if there is one, else the CPU.
        engine: `eager` or `openvino`, in place of the one that the archive was exported with.

    Attributes:
        classes: Names in the order of the scores.
        lineage: Where the model comes from.
        network: The PyTorch module, whatever engine answers.
        served: What engines compute: the network, with its features where the archive tells the
            unknown by them.
        answers: What is made of its scores.
        engine: What computes the scores.
        fetch: Gets photos by their address, under the rules of the archive's `allow_urls`.

    Raises:
        ServingError: If the archive is another version's, or `engine` names one that cannot run.
    """

    def __init__(
        self, folder: Path, device: torch.device | None = None, engine: str | None = None
    ) -> None:
        description = read_description(folder)
        shape, transform = description["architecture"], description["transform"]
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.lineage: dict[str, Any] = description["lineage"]
        self.fetch = Fetcher(allowed_from(description.get("allow_urls", "none")))
        self.transform = EvalTransform(
            **{**transform, "mean": tuple(transform["mean"]), "std": tuple(transform["std"])}
        )
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        architecture = _architecture(
            {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}
        )
        weights = _weights(folder / "model.safetensors", architecture)
        _refuse_a_giant(architecture, weights)
        try:
            network = Classifier(
                architecture,
                backbones.build(architecture.name, tag=architecture.tag),
                side=self.transform.crop,
            )
        except BreedlabError as error:
            raise ServingError(f"model.json: its network cannot be built here ({error})") from error
        _load(network, weights)
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()
        recorded, count = description.get("answers", {}), len(self.classes)
        self.served: torch.nn.Module = self.network
        novelty, width = None, None
        if unknown := recorded.get("unknown"):
            novelty = read_novelty(folder, unknown["method"], unknown["width"])
            self.served, width = WithFeatures(self.network).eval(), count + novelty.width
        self.answers = read_answers(recorded, count, novelty)
        computing = load_engine(
            folder, description.get("engine"), self.served, self.device, engine, width
        )
        self.engine = AnsweringEngine(computing, self.answers)

    def public_lineage(self) -> dict[str, Any]:
        """Where the model comes from, as far as who asks it may know: no path, no command line, no
        machine."""
        told = {name: self.lineage[name] for name in _PUBLIC if name in self.lineage}
        packages, data = self.lineage.get("packages"), self.lineage.get("data")
        if isinstance(packages, dict) and "breedlab" in packages:
            told["breedlab"] = packages["breedlab"]
        if isinstance(data, dict) and "photos" in data:
            told["data"] = {"photos": data["photos"]}
        return {**told, "architecture": self.network.architecture.name}

    def prepare(self, photo: bytes) -> torch.Tensor:
        """A photo's bytes as the network takes them: uint8 (3, side, side).

        Raises:
            BadPhoto: If they are no usable photo.
        """
        return self.transform(decode(photo))

    def scores(self, photos: torch.Tensor) -> torch.Tensor:
        """Calibrated logits (n, classes) on the CPU of uint8 photos (n, 3, side, side)."""
        return self.engine.scores(photos)[:, : len(self.classes)]

    def told(self, photos: torch.Tensor) -> list[dict[str, Any]]:
        """What is said of each photo beside its scores: `probabilities`, and `set` and `unknown` as
        `Answers.told`."""
        found = []
        for row in self.engine.scores(photos):
            probabilities = row[: len(self.classes)].softmax(0).tolist()
            distance = float(row[-1]) if self.answers.unknown is not None else None
            found.append(
                {"probabilities": probabilities, **self.answers.told(probabilities, distance)}
            )
        return found


@dataclass(frozen=True)
class Answer:
    """The scores of a request's photos.

    Attributes:
        scores: float32 (n, classes), one row a photo; NaN where there was none to score.
        model: Whose scores these are.
        errors: By the number of a photo, from 0, why it has no scores.
        distances: float32 (n,), how unlike the training images each photo is; None if the model
            does not tell.
    """

    scores: np.ndarray[Any, Any]
    model: Model
    errors: Mapping[int, BadRequest] = field(default_factory=dict)
    distances: np.ndarray[Any, Any] | None = None

    def all_scores(self) -> np.ndarray[Any, Any]:
        """The scores of the classes, and of `unknown` behind them where `serving.unknown=row` asked
        for that."""
        unknown = self.model.answers.unknown
        if unknown is None or not unknown.row or self.distances is None:
            return self.scores
        return unknown.scores(self.scores, self.distances)

    def rows(self) -> list[Any]:
        """Each photo's scores, or `{"error": ...}` in their place: an argmax over that fails, as it
        should."""
        rows: list[Any] = self.all_scores().tolist()
        for number, error in self.errors.items():
            rows[number] = {"error": str(error)}
        return rows

    def verbose(self) -> dict[str, Any]:
        """Scores, probabilities and the likeliest classes by name, where the model comes from, what
        computed."""
        shifted = np.exp(self.scores - self.scores.max(axis=1, keepdims=True))
        classes = self.model.classes
        predictions: list[dict[str, Any]] = []
        rows = zip(self.scores, shifted / shifted.sum(axis=1, keepdims=True), strict=True)
        for number, (scores, probabilities) in enumerate(rows):
            if number in self.errors:
                predictions.append({"error": str(self.errors[number])})
                continue
            best = np.argsort(-scores, kind="stable")[:TOP].tolist()
            top = [
                {"class": classes[i], "index": i, "probability": float(probabilities[i])}
                for i in best
            ]
            distance = None if self.distances is None else float(self.distances[number])
            told = self.model.answers.told(probabilities, distance)
            if "set" in told:
                told["set"] = [classes[index] for index in told["set"]]
            predictions.append(
                {
                    "top": top,
                    "scores": scores.tolist(),
                    "probabilities": probabilities.tolist(),
                    **told,
                }
            )
        about: dict[str, Any] = {
            "lineage": self.model.public_lineage(),
            "engine": str(self.model.engine.choice),
        }
        if self.model.answers.least is not None:
            about["set_coverage"] = self.model.answers.coverage
        return {"predictions": predictions, "classes": list(classes), **about}


def model_fn(model_dir: str, context: Any = None) -> Model:
    """Loads the model that lies in `model_dir`."""
    return Model(Path(model_dir))


def input_fn(
    body: bytes | str | None, content_type: str, context: Any = None, max_bytes: int = MAX_BYTES
) -> list[Photo]:
    """The photos of a request, as bytes or by their address; no address is asked yet.

    Args:
        body: A photo, JSON (`{"image": <base64>}`, `{"url": ...}` or a list of those), or a form;
            gzipped or not. None of a form under TorchServe, which takes it apart and hands on no
            body.
        content_type: The request's Content-Type.
        context: The container's; not used.
        max_bytes: Of what a gzipped body holds.

    Raises:
        BadRequest: 415 for a type that is not read, or not the photo's; 400 for a body of the wrong
            shape; 413 for one that inflates too far.
    """
    if body is None:
        raise BadRequest(
            415,
            f"{content_type}: a multipart form does not get through here; send the photo's bytes"
            " with their type",
        )
    return parse(body, content_type, max_bytes)


def predict_fn(photos: Sequence[Photo], model: Model, context: Any = None) -> Answer:
    """Scores, one row a photo.

    Raises:
        BadRequest: 4xx if not one of them is a usable photo; it says why the first is none.
    """
    count = len(photos)
    found: list[torch.Tensor | BadRequest] = []
    for number, photo in enumerate(photos, 1):
        try:
            found.append(prepare(model, fetched(model, photo, number, count), number, count))
        except BadRequest as error:
            found.append(error)
    usable = [one for one in found if isinstance(one, torch.Tensor)]
    rows = iter(model.engine.scores(torch.stack(usable)).numpy() if usable else ())
    return answered([next(rows) if isinstance(one, torch.Tensor) else one for one in found], model)


def answered(found: Sequence[np.ndarray[Any, Any] | BadRequest], model: Model) -> Answer:
    """The answer to a request of several photos, of which some may be unusable.

    Args:
        found: What the model's engine gave for each, or why there is nothing.
        model: Whose engine it is.

    Raises:
        BadRequest: The first one's, if all of them are.
    """
    errors = {number: one for number, one in enumerate(found) if isinstance(one, BadRequest)}
    if len(errors) == len(found):
        raise errors[0]
    count, tells = len(model.classes), model.answers.unknown is not None
    nothing = np.full(count + tells, np.nan, np.float32)
    rows = np.stack([nothing if isinstance(one, BadRequest) else one for one in found])
    return Answer(rows[:, :count], model, errors, rows[:, count] if tells else None)


def fetched(model: Model, photo: Photo, number: int = 1, count: int = 1) -> bytes:
    """The bytes of the photo with this number of a request's `count`, wherever they are.

    Raises:
        BadRequest: 4xx if they must not or cannot be fetched.
    """
    if isinstance(photo, BadRequest):
        raise photo
    if isinstance(photo, bytes):
        return photo
    try:
        return model.fetch(photo.url)
    except NotFetched as error:
        raise BadRequest(error.status, f"{named(number, count)}: {error}") from error


def prepare(model: Model, photo: bytes, number: int = 1, count: int = 1) -> torch.Tensor:
    """The photo with this number of a request's `count`, as the network takes it.

    Raises:
        BadRequest: 400 if its bytes are no usable photo.
    """
    inspect(photo, number, count)
    return decoded(model, photo, number, count)


def decoded(model: Model, photo: bytes, number: int = 1, count: int = 1) -> torch.Tensor:
    """As `prepare`, of a photo that was inspected before."""
    try:
        return model.prepare(photo)
    except BadPhoto as error:
        raise BadRequest(400, f"{named(number, count)} {error}") from error


def inspect(photo: bytes, number: int = 1, count: int = 1) -> int:
    """How many pixels the photo with this number of a request's `count` has.

    Raises:
        BadRequest: 400 if it is none that a server should decode.
    """
    try:
        return file_checks.inspect(photo)
    except BadPhoto as error:
        raise BadRequest(400, f"{named(number, count)} {error}") from error


def output_fn(
    answer: Answer, accept: str, context: Any = None, verbose: bool = False
) -> tuple[bytes, str]:
    """The answer's bytes and their content type.

    Args:
        answer: From `predict_fn`.
        accept: The request's Accept: JSON (a plain array of rows; with `verbose=1` names and
            probabilities too) or npy. Of those that are written, the one with the highest `q` wins,
            of several the first.
        context: The container's; not used.
        verbose: Whether JSON is to be verbose whatever `accept` says.

    Raises:
        BadRequest: 406 if none of them is written. 400 if one of several photos has no scores and
            npy is asked for, which has no place to say so.
    """
    if len(accept or "") > _MAX_ACCEPT:
        raise BadRequest(406, f"the Accept header is longer than {_MAX_ACCEPT:,} characters")
    for kind, parameters in _by_quality(accept or JSON):
        if kind == NPY:
            if answer.errors:
                raise next(iter(answer.errors.values()))
            buffer = io.BytesIO()
            np.save(buffer, answer.all_scores())
            return buffer.getvalue(), NPY
        if kind in (JSON, "application/*", "*/*", ""):
            tree = answer.verbose() if verbose or "verbose=1" in parameters else answer.rows()
            return _dumped(tree), JSON
    raise BadRequest(406, f"accept {accept!r} is not written; ask for {JSON} or {NPY}")


def _by_quality(accept: str) -> list[tuple[str, list[str]]]:
    """An Accept's media types with their parameters, the best liked first; without those of
    `q=0`."""
    choices = []
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower().replace(" ", "") for part in choice.split(";"))
        given = [part[2:] for part in parameters if part.startswith("q=")]
        try:
            quality = float(given[0]) if given else 1.0
        except ValueError:
            quality = 1.0  # a slip in the weight is no reason to refuse what was asked for
        choices.append((quality, kind, parameters))
    choices.sort(key=lambda choice: -choice[0])
    return [(kind, parameters) for quality, kind, parameters in choices if quality > 0]
