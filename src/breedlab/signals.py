"""How a run is told to stop (SIGTERM, Ctrl-C) and when it heeds that: at once, or in training after
the step."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from breedlab.errors import Terminated

_told: signal.Signals | None = None
_told_at = 0.0
_deferring = False

_ENDING = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
"""SIGUSR1 is what Slurm jobs ask for as a warning (`--signal=USR1@120`); unheard it would end the
process, unsaved."""

_SAME_REQUEST_S = 0.5
"""torchrun hands on to its processes what their whole group was sent: they are told twice, and
meant once."""


class Stopped(BaseException):
    """The run was told to stop by SIGTERM, and does so now.

    No Exception: a search goes on after a trial's failure, and must not after this.
    """


def told() -> bool:
    """Whether this process was told to stop and has not done so yet."""
    return _told is not None


def stop() -> None:
    """Ends what is running.

    Raises:
        Stopped: After SIGTERM.
        KeyboardInterrupt: After Ctrl-C.
    """
    global _told
    heeded, _told = _told, None
    raise KeyboardInterrupt if heeded == signal.SIGINT else Stopped


@contextmanager
def listening(how_to_resume: Callable[[], str | None]) -> Iterator[None]:
    """Let SIGTERM end a run at once, wherever it is, with one message that says how to go on.

    Args:
        how_to_resume: Returns the command to go on with, None while there is nothing saved.

    Raises:
        Terminated: In place of what SIGTERM interrupted.
    """
    global _told
    _told = None
    before = (
        {number: signal.signal(number, _hear) for number in _ENDING} if _in_main_thread() else {}
    )
    try:
        yield
    except Stopped:
        raise Terminated(_message(how_to_resume())) from None
    finally:
        _told = None
        for number, handler in before.items():
            signal.signal(number, handler)


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_NO_STACK = _Stack(None, 2, 0)  # SS_DISABLE


@contextmanager
def same_stack() -> Iterator[None]:
    """Give the thread its signal stack back after what is done here, if that has set another.

    On processors with AMX, OpenVINO's CPU plugin sets one for the thread that loads it, and frees
    that memory when the plugin goes. If it goes in another thread, or not in the reverse order of
    loading, the first thread keeps the freed stack, and the next SIGTERM or Ctrl-C is a
    segmentation fault: a run that would have saved its step loses it.
    """
    if sys.platform != "linux":
        yield
        return
    set_stack = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    set_stack(None, ctypes.byref(before))
    try:
        yield
    finally:
        # A stack of before may be too small for AMX's registers; then signals are handled on the
        # ordinary one.
        if set_stack(ctypes.byref(before), None) != 0:
            set_stack(ctypes.byref(_NO_STACK), None)


@contextmanager
def deferrable() -> Iterator[None]:
    """From `defer` to the end of this, being told to stop is only noted; being told so again ends
    it at once."""
    global _deferring
    before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGINT)}
    try:
        yield
    except Exception:
        # the failure may well come of it: what tells a whole group to stop ends its helpers, too
        if told():
            stop()
        raise
    finally:
        was, _deferring = _deferring, False
        if was and _in_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
    if told():  # too late for a step that would have saved it: all of it is done
        stop()


def defer() -> None:
    """Takes the signals; Lightning, which takes them for itself, does so before training starts."""
    global _deferring
    if _in_main_thread():
        _deferring = True
        for number in _ENDING:
            signal.signal(number, _hear)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _hear)


def _hear(number: int, _frame: FrameType | None) -> None:
    global _told, _told_at
    again, _told = _told is not None, signal.Signals(number)
    if not again:
        _told_at = time.monotonic()
    # By either signal: whoever asks twice will not wait for a step that may be stuck.
    insisted = again and time.monotonic() - _told_at > _SAME_REQUEST_S
    if insisted or not _deferring:
        stop()


def _in_main_thread() -> bool:
    """Python lets no other thread set a handler."""
    return threading.current_thread() is threading.main_thread()


def _message(how_to_resume: str | None) -> str:
    if how_to_resume is None:
        return "told to stop (SIGTERM) before there was anything to save; start it again"
    return f"told to stop (SIGTERM); what was done is saved, go on with: {how_to_resume}"
