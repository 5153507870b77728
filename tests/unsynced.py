"""No test waits for the disk: once this is imported, `os.fsync` returns at once.

No test cuts the power, which is all that it is about; a kill loses nothing that was written. A run
calls it some 40 times, and a disk that others use takes 10 ms each time. Tests of what has to be on
the disk count the calls.
"""

from __future__ import annotations

import os


def _done(descriptor: int) -> None:
    os.fstat(descriptor)  # which, like fsync, refuses what is no open file


os.fsync = _done
