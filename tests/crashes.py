"""What a run of tests makes of a process of pytest-xdist that ends before its tests have."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by file, as `--dist loadfile` does, so that a crashed process does not hang the
    rest.

    pytest-xdist 3.8 puts all files of a crashed process back into its queue, those that are done,
    too, each of which then waits for a test to end elsewhere: at the end there are none, and the
    run never ends.
    """
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def remove_node(self, node: Any) -> str | None:
            work = self.assigned_work[node]
            for file in [file for file, tests in work.items() if all(tests.values())]:
                del work[file]
            return super().remove_node(node)

    return Files(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Say how a process of pytest-xdist ended that was not told to: by which signal, or with which
    code."""
    process = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if error is None or process is None:
        return
    try:
        code = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        code = "none: it still runs, and only its connection is closed"
    print(f"\n{node.gateway.id}: exit code {code}", file=sys.__stderr__, flush=True)


_crashed: list[str] = []
"""The tests that a process was at when it ended."""


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: Any, sched: Any) -> None:
    _crashed.append(crashitem)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Count tests whose process ended among those that failed, for `--last-failed`.

    pytest-xdist runs them once more in another process, where they may pass, and pytest then takes
    them off its list, though the run as a whole has failed because of them.
    """
    if _crashed:
        cache = session.config.cache
        failed = cache.get("cache/lastfailed", {})
        cache.set("cache/lastfailed", {**failed, **dict.fromkeys(_crashed, True)})
