"""How SIGTERM and Ctrl-C stop a run, and when: at once, or in training after
the step."""

from __future__ import annotations

import _thread
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from breedlab.errors import Terminated

_ENDING = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
"""SIGUSR1 is what Slurm jobs ask for as a warning (`--signal=USR1@120`); unheard it would end the
process, unsaved."""

_SAME_REQUEST_S = 0.5
"""torchrun passes on to its processes what their whole group was sent: each hears it twice."""


_AGAIN_S = 0.05
"""After how long a stop that was dropped is asked for again."""


class Stopped(BaseException):
    """SIGTERM has stopped the run.

    Not an Exception: a search continues after a trial's failure, and must not after this.
    """


class StopRequest:
    """A request to stop, by SIGTERM or Ctrl-C, and whether it waits for the end of a step."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._came_at = 0.0
        self._deferring = False

    def is_pending(self) -> bool:
        """Return whether this process was asked to stop and has not done so yet."""
        return self._signal is not None

    def heed(self) -> None:
        """End what is running.

        Raises:
            Stopped: After SIGTERM.
            KeyboardInterrupt: After Ctrl-C.
        """
        heeded, self._signal = self._signal, None
        raise KeyboardInterrupt if heeded == signal.SIGINT else Stopped

    @contextmanager
    def deferrable(self) -> Iterator[None]:
        """After a call of `defer` inside the block, only note a request to stop until the block
        ends; a second request stops at once."""
        before = {number: signal.getsignal(number) for number in (*_ENDING, signal.SIGINT)}
        try:
            yield
        except Exception:
            # the stop may be the cause: a signal to the whole group ends its helpers, too
            if self.is_pending():
                self.heed()
            raise
        finally:
            was, self._deferring = self._deferring, False
            if was and _in_main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)
        if self.is_pending():  # too late for a step that would have saved it: all of it is done
            self.heed()

    def defer(self) -> None:
        """Take the signals; Lightning, which takes them for itself, does so before training
        starts."""
        if _in_main_thread():
            self._deferring = True
            for number in _ENDING:
                signal.signal(number, self.hear)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self.hear)

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: note it, or stop at once."""
        again, self._signal = self._signal is not None, signal.Signals(number)
        if not again:
            self._came_at = time.monotonic()
        # By either signal: anyone who asks twice will not wait for a step that may be stuck.
        insisted = again and time.monotonic() - self._came_at > _SAME_REQUEST_S
        if insisted or not self._deferring:
            self.heed()


@contextmanager
def listening(how_to_resume: Callable[[], str | None]) -> Iterator[None]:
    """Let SIGTERM end a run at once, wherever it is, with one message that says how to continue.

    Args:
        how_to_resume: Returns the command to continue with, None while there is nothing saved.

    Raises:
        Terminated: In place of what SIGTERM interrupted.
    """
    hear = StopRequest().hear
    before = (
        {number: signal.signal(number, hear) for number in _ENDING} if _in_main_thread() else {}
    )
    try:
        with _nothing_dropped():
            yield
    except Stopped:
        raise Terminated(_message(how_to_resume())) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _nothing_dropped() -> Iterator[None]:
    """Ask once more for a stop that Python has dropped: what is raised in a finalizer, such as that
    of a loader's iterator, is printed and ignored, and the run would go on."""
    before = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, Stopped | KeyboardInterrupt):
            before(dropped)
            return
        stopped = issubclass(dropped.exc_type, Stopped)
        number = signal.SIGTERM if stopped else signal.SIGINT
        # later: raised in here, it would be dropped again
        again = threading.Timer(_AGAIN_S, _thread.interrupt_main, (number,))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


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


def _in_main_thread() -> bool:
    """Return whether this is the main thread; Python lets no other set a signal handler."""
    return threading.current_thread() is threading.main_thread()


def _message(how_to_resume: str | None) -> str:
    if how_to_resume is None:
        return "stopped by SIGTERM before there was anything to save; start it again"
    return f"stopped by SIGTERM; progress is saved, resume with: {how_to_resume}"
