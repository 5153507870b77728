"""smdebug 1.0.34 made to work with today's packages, and kept quiet. Import this before anything of
smdebug."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np

_LEVEL = "SMDEBUG_LOG_LEVEL"


def _import_quietly() -> None:
    """Import smdebug without its log: its logger prints to stdout from the first import on. Set
    SMDEBUG_LOG_LEVEL to read it."""
    _stand_in_for_pyinstrument()
    level = os.environ.get(_LEVEL)
    os.environ.setdefault(_LEVEL, "critical")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import smdebug.pytorch
            import smdebug.rules
            import smdebug.trials  # noqa: F401
    finally:
        if level is None:
            del os.environ[_LEVEL]
            logging.getLogger("smdebug").setLevel(logging.CRITICAL + 1)


def _stand_in_for_pyinstrument() -> None:
    """Let smdebug be imported without pyinstrument, which it imports for a profiler of its own that
    no one here starts.

    Its C extension has no wheels for Python 3.12 and newer, and does not import on 3.13.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("pyinstrument.renderers")
    except ImportError:

        def missing(*_: Any, **__: Any) -> None:
            raise ImportError(
                "smdebug's Python profiler needs pyinstrument, which is not installed"
            )

        for name, attribute in (
            ("pyinstrument", "Profiler"),
            ("pyinstrument.renderers", "JSONRenderer"),
        ):
            module = ModuleType(name)
            setattr(module, attribute, missing)
            sys.modules[name] = module


class _Array(np.ndarray):
    """numpy 2.3 took `tostring` away; it was `tobytes` under another name."""

    def tostring(self, order: Any = "C") -> bytes:
        return self.tobytes(order)


def _mend_tostring() -> None:
    from smdebug.core import writer
    from smdebug.core.tfevent import util

    plain = util.make_tensor_proto

    def make_tensor_proto(nparray_data: Any, tag: str) -> Any:
        return plain(np.asarray(nparray_data).view(_Array), tag)

    util.make_tensor_proto = writer.make_tensor_proto = make_tensor_proto


def _hide_from_tensorboard() -> None:
    """Rename smdebug's event files: TensorBoard takes every folder with a `.tfevents` file for a
    run of its own, and smdebug makes one per step.

    smdebug's readers find a step's file by the index, under any name, so recordings with the old
    name are read as before.
    """
    from smdebug.core.locations import TensorFileLocation
    from smdebug.core.tfevent import event_file_writer

    suffix, theirs, parse = ".tensors", ".tfevents", event_file_writer.parse_worker_name_from_file

    def get_filename(self: Any) -> str:
        return f"{self.get_step_num_str()}_{self.worker_name}{suffix}"

    def parse_worker_name_from_file(filename: str) -> Any:
        return parse(
            filename.removesuffix(suffix) + theirs if filename.endswith(suffix) else filename
        )

    TensorFileLocation.get_filename = get_filename
    event_file_writer.parse_worker_name_from_file = parse_worker_name_from_file


def _write_in_the_step() -> None:
    """Write events where they come up, instead of in a thread behind a queue of ten.

    On a full disk that thread dies, and code that puts an eleventh event into the queue, or waits
    for it to empty, waits forever. Here the write itself raises, and `RunHook` ends the recording.
    The thread saved no time: nearly all of the work is Python's, and holds its lock.
    """
    from smdebug.core import writer
    from smdebug.core.locations import TensorLocation
    from smdebug.core.tfevent import event_file_writer

    class SynchronousWriter(event_file_writer.EventFileWriter):  # type: ignore[misc]
        def __init__(
            self, path: str, index_writer: Any = None, verbose: bool = False, **options: Any
        ) -> None:
            checked = options.get("write_checksum", False)
            self._ev_writer = event_file_writer.EventsWriter(path, index_writer, verbose, checked)
            self._ev_writer.init()

        def write_event(self, event: Any) -> None:
            if not isinstance(event, event_file_writer.EventWithIndex):
                self._ev_writer.write_event(event)
                return
            start, length = self._ev_writer.write_event(event.event)
            name = event_file_writer.get_relative_event_file_path(self._ev_writer.name())
            worker = event_file_writer.parse_worker_name_from_file(name)
            location = TensorLocation(
                event.tensorname, event.get_mode(), event.mode_step, name, start, length, worker
            )
            self._ev_writer.index_writer.add_index(location)

        def flush(self) -> None:
            self._ev_writer.flush()

        def close(self) -> None:
            self._ev_writer.close()

    writer.EventFileWriter = SynchronousWriter


def _close_quietly() -> None:
    """Suppress errors when a writer is freed: what could not be written has raised already, and
    would print a second traceback."""
    from smdebug.core.tfevent.events_writer import EventsWriter
    from smdebug.core.tfrecord.record_writer import RecordWriter

    def quietly(self: Any) -> None:
        with contextlib.suppress(Exception):
            self.close()

    EventsWriter.__del__ = RecordWriter.__del__ = quietly


def _apply() -> None:
    try:
        _import_quietly()
    except TypeError as error:  # what protobuf 4 and newer say to smdebug's old generated code
        for name in [
            name for name in sys.modules if name == "smdebug" or name.startswith("smdebug.")
        ]:
            del sys.modules[name]
        raise ImportError(
            "smdebug needs protobuf before 4, or PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python in"
            " the environment"
        ) from error
    if not hasattr(np.ndarray, "tostring"):
        _mend_tostring()
    _hide_from_tensorboard()
    _write_in_the_step()
    _close_quietly()


_apply()
