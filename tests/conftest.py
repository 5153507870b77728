"""What the tests share: images drawn once, and a config small enough to train in a second."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Networks this small gain nothing from a second thread, and two test runs side by side lose much by
# it. Processes that tests start inherit this; it is read while torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import absl.logging
import preloaded  # which keeps the environment that tests start with
import pytest
import torch
import unsynced  # noqa: F401
from crashes import (  # noqa: F401 - hooks of pytest's
    pytest_handlecrashitem,
    pytest_sessionfinish,
    pytest_testnodedown,
    pytest_xdist_make_scheduler,
)
from lightning.fabric.utilities import registry

from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.data.sample import write_sample

torch.set_num_threads(1)

# What a shell without job control starts in the background ignores Ctrl-C, and so did all that the
# tests send one to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# absl, which TensorBoard and OpenVINO bring, keeps the stderr of the moment it is imported, and
# closes it when Hydra configures logging. In a test that stderr is pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

# Lightning asks all of some 300 installed packages for callbacks, for each trainer and each trial.
registry.entry_points = functools.cache(registry.entry_points)

ROOT = Path(__file__).resolve().parents[1]

# A frozen random network of few parameters on small images: learns what the tests need, in no time.
# resnet18's archive and checkpoints, of 45 MB each, would take a third of a run.
SMALL = [
    "model=resnet34",
    "model.name=shufflenet_v2_x0_5",
    "model.weights=none",
    "data=image_folder",
    "data.image_size=32",
    "data.resize=36",
    "data.batch_size=16",
    "data.num_workers=0",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    # `auto` would be bf16 on some machines, and the same test another one there.
    "trainer.precision=fp32",
    "tuner=none",
    # A fifth of a run; what is about them asks for them.
    "debugger=none",
    "profiler=none",
    "seed=7",
    # Each run would convert, quantize and time; tests/serving/test_engine_selection.py does.
    "serving.engine=eager",
    "serving.precision=fp32",
    # Another tenth; test_answers, test_novelty, and the journeys have it.
    "serving.unknown=off",
]

Configure = Callable[..., Config]


LONGEST = [
    "test_study.py",
    "test_distributed.py",
    "test_docs_journey.py",
    "test_journey.py",
    "test_following.py",
    "test_fit.py",
    "test_notebook.py",
    "test_reopen.py",
    "test_recorder.py",
    "test_pipelines.py",
    "test_page.py",
    "test_signals.py",
    "test_launching.py",
    "test_engine_selection.py",
    "test_deploy.py",
    "test_engines.py",
    "test_request.py",
    "test_loggers.py",
    "test_feature_engines.py",
    "test_permissions.py",
    "test_extension.py",
    "test_jobs.py",
    "test_ray.py",
    "test_stack.py",
    "test_notebook_in_account.py",
]
"""Files by the time that they take, the longest first, as a run's last lines list them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files that take longest, then those with most slow tests: short ones fill up
    the end, where no process shall be left with a long one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))

    def rank(item: pytest.Item) -> tuple[int, int]:
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST), -slow[item.path]

    items.sort(key=rank)


def pytest_collection_finish(session: pytest.Session) -> None:
    _freeze()
    preloaded.count_no_frozen_objects()


_CPU_TIME = pytest.StashKey[float]()
"""Seconds of a test in this process."""
_LONG = 0.3


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    began = time.process_time()
    try:
        yield
    finally:
        item.stash[_CPU_TIME] = time.process_time() - began


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    # a long test has probably imported something
    is_long = item.stash.get(_CPU_TIME, 0.0) > _LONG
    if is_long or nextitem is None or nextitem.path != item.path:
        _freeze()


def _freeze() -> None:
    """Have `gc.collect`, which every run and every trial calls, look only at what has come since.

    Two million objects of modules and tests take it 0.6 s each time.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List the files that took longest, which `LONGEST` is to hold."""
    seconds: Counter[str] = Counter()
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.partition("::")[0]] += report.duration
    if sum(seconds.values()) > 300:
        terminalreporter.section("files that took longest")
        for file, total in seconds.most_common(20):
            terminalreporter.line(f"{total:6.0f} s  {file}")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 classes; 25 training, 6 validation and 6 test images each."""
    root = tmp_path_factory.mktemp("photos") / "sample"
    write_sample(root, classes=4, train=25, valid=6, test=6, size=48, seed=1)
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One activation cache for all tests, as a person has one for all runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def words(image_folder: Path, cache: Path) -> Callable[..., list[str]]:
    """The overrides of a small experiment on the drawn images, others added."""

    def make(*more: str) -> list[str]:
        return [*SMALL, f"data.root={image_folder}", f"cache.dir={cache}", *more]

    return make


@pytest.fixture(scope="session")
def configure(words: Callable[..., list[str]]) -> Configure:
    """The validated config of a small experiment."""

    def make(*more: str) -> Config:
        return validate(load(words(*more)))

    return make


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    wheel = next(folder.glob("breedlab-*.whl"))
    subprocess.run(
        [*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)],
        check=True,
    )
    return folder / "site"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, for what writes to `runs/`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(
    params=sorted(path.parent.name for path in (ROOT / "tests" / "assets").glob("v*/golden.tar.xz"))
)
def golden(request: pytest.FixtureRequest, here: Path) -> Path:
    """The working folder of somebody who used the first breedlab of a schema version, unpacked
    where we are."""
    shutil.unpack_archive(ROOT / "tests" / "assets" / request.param / "golden.tar.xz", here)
    return here


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real headless Chromium; `.ci/run` installs it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in paths:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(paths[0])
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(paths[1])))
    yield driver
    driver.quit()
