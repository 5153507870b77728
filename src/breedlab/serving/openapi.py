"""What `/docs` says of `POST /invocations`, in OpenAPI's terms: FastAPI cannot read it from a
handler of raw bytes."""

from __future__ import annotations

from typing import Any

from breedlab.serving.request_parser import ENVELOPES, IMAGE_TYPES, JSON, MAX_IMAGES
from breedlab.serving.response import NPY

_IMAGE = {"type": "string", "format": "binary"}
_TEXT = {"type": "string", "description": "Base64, a data URI, or an http(s) address."}
_ITEM = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "image": {"type": "string", "format": "byte"},
                "url": {"type": "string", "format": "uri"},
                "b64": {"type": "string", "format": "byte"},
                "image_bytes": {
                    "type": "object",
                    "properties": {"b64": {"type": "string", "format": "byte"}},
                    "required": ["b64"],
                    "additionalProperties": False,
                },
            },
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
        },
        _TEXT,
    ]
}
_ITEMS = {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": MAX_IMAGES}
REQUEST_BODY = {
    "required": True,
    "content": {
        **{kind: {"schema": _IMAGE} for kind in IMAGE_TYPES},
        JSON: {
            "examples": {
                "image": {"value": {"image": "<base64>"}},
                "address": {"value": {"url": "https://..."}},
            },
            "schema": {
                "anyOf": [
                    _ITEM,
                    _ITEMS,
                    *(
                        {
                            "type": "object",
                            "properties": {name: {"anyOf": [_ITEM, _ITEMS]}},
                            "required": [name],
                            "additionalProperties": False,
                        }
                        for name in ENVELOPES
                    ),
                ]
            },
        },
    },
}

_ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "code": {"type": "string", "description": "Of breedlab's error codes, such as BL512."},
    },
    "required": ["error"],
}
_REFUSALS = {
    400: "No usable image, or JSON of another shape.",
    406: "None of the accepted types can be produced.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not supported, or is not the image's.",
    503: "Too many images at once; Retry-After says when to try again.",
}
_ROWS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_VERBOSE = {
    "type": "object",
    "properties": {
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "top": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {
                                "class": {"type": "string"},
                                "index": {"type": "integer"},
                                "probability": {"type": "number"},
                            },
                        },
                    },
                    "scores": {"type": "array", "items": {"type": "number"}},
                    "probabilities": {"type": "array", "items": {"type": "number"}},
                    "labels": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": (
                            "Of a multi-label model: the labels whose probability reaches their"
                            " threshold."
                        ),
                    },
                    "set": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": (
                            "One of these is the true class with probability `set_coverage`."
                        ),
                    },
                    "unknown": {
                        "type": "boolean",
                        "description": "Whether it is unlike the images of all classes.",
                    },
                    "stranger_than": {
                        "type": "number",
                        "description": (
                            "The share of validation images that are less unlike the training"
                            " images."
                        ),
                    },
                },
            },
        },
        "classes": {"type": "array", "items": {"type": "string"}},
        "lineage": {"type": "object"},
        "engine": {"type": "string"},
        "set_coverage": {"type": "number"},
        "thresholds": {"type": "array", "items": {"type": "number"}},
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Scores, one row per image.",
        "content": {
            JSON: {"schema": _ROWS},
            f"{JSON}; verbose=1": {"schema": _VERBOSE},
            NPY: {"schema": _IMAGE},
        },
    },
    **{
        status: {"description": text, "content": {JSON: {"schema": _ERROR}}}
        for status, text in _REFUSALS.items()
    },
}
