"""backend=ray: on a real cluster of one node, and on one that refuses or loses an answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import preloaded
import psutil
import pytest
from codes import check_names, raises_code
from documents import run_by
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from breedlab.backends import following, ray, shared_folder, submission
from breedlab.backends.launched import Launched
from breedlab.backends.sagemaker.backend import SageMakerBackend
from breedlab.cli import jobs, launch
from breedlab.config.yaml_folders import config_folder
from breedlab.errors import BackendError, BreedlabError
from breedlab.pipeline import rundir
from breedlab.registry import BACKENDS, LOGGERS

if find_spec("ray") is None:
    pytest.skip("the ray extra is not installed", allow_module_level=True)

Words = Callable[..., list[str]]
Capture = pytest.CaptureFixture[str]

# As on this machine, where conftest.py sets it: other threads add up in another order.
ONE_THREAD = "+backend.environment={OMP_NUM_THREADS: '1'}"
TIMED = ("seconds", "ms", "per_second", "sha256")
HERE = ["experiment=quickstart", "backend=ray"]
SEARCH = ("tuner=random", "tuner.trials=2", "tuner.max_epochs=1")

FRAGILE = '''
from pathlib import Path

from breedlab.errors import LoggerError
from breedlab.registry import LOGGERS
from breedlab.training.logger_kinds import LoggerKind


@LOGGERS.register("fragile")
class Fragile(LoggerKind):
    """Nothing, where no file is in its way."""

    obstacle: str = "nowhere"
    """The file."""

    def build(self, config, run, run_id):
        if Path(self.obstacle).exists():
            raise LoggerError(f"logger.fragile: {self.obstacle} is in the way")
'''


def documented(verb: str, name: str = "") -> list[str]:
    """The words of the page's command on jobs, on the job of a name."""
    page = [each.args for each in run_by("ray") if each.args[1] == "jobs"]
    (words,) = [args[2:] for args in page if args[2] == verb]
    return [name if word == "NAME" else word for word in words]


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster that nothing outside this machine can reach."""
    gcs, dashboard, client, agent = free_ports(4)
    # its sockets' paths have to be short
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    own = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs,
        "dashboard-port": dashboard,
        "ray-client-server-port": client,
        "dashboard-agent-listen-port": agent,
        "min-worker-port": "0",
        "max-worker-port": "0",
        "num-cpus": "2",
        "temp-dir": folder,
        "object-store-memory": "100000000",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", *words]
    with (Path(folder) / "start.log").open("w") as log:
        head = preloaded.FreshPopen(
            command, stdout=log, stderr=log, env={**os.environ, **own}, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(lambda: answers(address) or head.poll() is not None, 90)
        assert head.poll() is None, (Path(folder) / "start.log").read_text()
        yield address
    finally:
        family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
        for process in family:
            kill(process)
        # what Ray starts in sessions of their own names its folder
        for process in psutil.process_iter(["cmdline"]):
            if any(folder in word for word in process.info["cmdline"] or []):
                kill(process)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def answers(address: str) -> bool:
    try:
        return bool(PoolManager(retries=False).request("GET", f"{address}/api/version").data)
    except HTTPError:
        return False


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)


def test_the_pages_commands_are_those_that_are_run_here() -> None:
    launches = [each.args[2:] for each in run_by("ray") if each.args[1] == "launch"]
    assert launches == [[*HERE, "dry_run=true"], HERE]
    verbs = [each.args[2] for each in run_by("ray") if each.args[1] == "jobs"]
    assert verbs == ["list", "show", "stop", "fetch", "resume"]


@pytest.fixture
def on(cluster: str, words: Words, here: Path) -> Words:
    """The overrides of a small experiment on the cluster, by the Python of the tests."""
    place = [f"backend.ray.address={cluster}", f"backend.ray.python={sys.executable}"]
    return lambda *more: words(*HERE, *place, ONE_THREAD, *more)


def job() -> Any:
    (handle,) = Launched(Path("runs")).all()
    return handle


@pytest.fixture
def my_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a logger that fails while a file is there; it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(here))])
    (here / "my_package").mkdir()
    (here / "my_package" / "__init__.py").write_text(FRAGILE)
    yield "plugins=[my_package]"
    sys.modules.pop("my_package", None)
    LOGGERS._classes.pop("fragile", None)


@pytest.mark.slow
def test_a_search_fails_is_continued_and_gives_what_it_gives_here(
    on: Words, words: Words, here: Path, cluster: str, my_package: str, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shared, obstacle = here / "shared", here / "obstacle"
    obstacle.touch()
    search = [*SEARCH, my_package, "logger.name=fragile"]
    there = [f"logger.fragile.obstacle={obstacle}", f"backend.ray.storage={shared}"]
    assert launch.main(on(*search, *there, "backend.wait=false")) == 0
    name, started = job().name, job().started
    assert f"jobs fetch {name}" in capsys.readouterr().out
    mine = local_run(words(*search))  # while it runs there

    with raises_code("BL404", names=(name, f"{obstacle} is in the way", "jobs resume")) as failed:
        jobs.main(documented("fetch", name))
    assert failed.value.exit_code == 1 and "Traceback" not in str(failed.value)
    (run,) = (here / "runs" / "quickstart").iterdir()
    assert (run / "lineage.json").is_file() and not (run / "metrics.json").is_file()
    obstacle.unlink()
    assert launch.main([f"resume={run}", "backend.wait=true"]) == 0
    check_names(capsys.readouterr().out, (f"started: {name}-2", f"breedlab predict {run}"))
    assert (job().status(), job().started) == ("complete", started)
    assert (here / "runs" / "latest").resolve() == run.resolve()
    (theirs,) = (shared / "quickstart").iterdir()
    assert (theirs / "model.tar.gz").read_bytes() == (run / "model.tar.gz").read_bytes()
    assert measured(run) == measured(mine)

    # another process; then another machine that has the shared folder and the cluster's address
    shown = preloaded.run(
        [sys.executable, "-m", "breedlab.cli", "jobs", *documented("show", name)],
        capture_output=True, text=True, cwd=here, check=True,
    ).stdout  # fmt: skip
    first, _, second = shown.partition(f"› {name}-2")
    assert re.findall(r"trial (\d) running", first) == ["0", "1"]
    assert not re.findall(r"trial (\d) running", second)
    assert jobs.main(documented("list")) == 0
    assert jobs.main(["show", name]) == 0
    said = capsys.readouterr().out
    check_names(said, (name, "complete", "yes", "Trials", f"{theirs}/", cluster))
    with raises_code("BL400", names=name):
        jobs.main(documented("resume", name))
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    shutil.copytree(here / "my_package", "my_package")
    assert jobs.main(["fetch", f"{name}-2"]) == 0
    assert measured(Path("runs", "quickstart", run.name)) == measured(mine)
    assert jobs.main(["list", "--all", "--where", cluster]) == 0
    check_names(capsys.readouterr().out, (f"{name}-2", "quickstart", cluster))


def local_run(overrides: list[str]) -> Path:
    """The run directory of the same experiment here."""
    assert launch.main(["experiment=quickstart", *overrides, "runs_dir=local"]) == 0
    (run,) = Path("local", "quickstart").iterdir()
    return run.absolute()


def measured(run: Path) -> Any:
    """What a run has measured, but for times."""
    metrics = json.loads((run / "metrics.json").read_text())

    def untimed(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        return {k: untimed(v) for k, v in tree.items() if not any(word in k for word in TIMED)}

    assert metrics["search"]["values"] and metrics["test"]["metrics"]
    return untimed(metrics)


@pytest.mark.slow
def test_a_job_is_stopped_and_those_of_others_are_left_alone(
    on: Words, here: Path, cluster: str, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    theirs = ray._connect(cluster).submit_job(entrypoint="sleep 100")
    assert launch.main(on("backend.wait=false")) == 0
    name = job().name
    wait_for(lambda: job().status() == "running", 60)
    assert jobs.main(documented("stop", name)) == 0
    wait_for(lambda: job().status() == "stopped", 60)
    capsys.readouterr()
    assert jobs.main(["stop", name]) == 0
    assert f"nothing to stop: {name}: stopped" in capsys.readouterr().out
    with raises_code("BL404", names=(f"{name}: stopped", f"jobs resume {name}")):
        jobs.main(["fetch", name])
    assert jobs.main(["fetch", name, "--now"]) == 0
    monkeypatch.chdir(here.parent)
    with raises_code("BL407", names=(theirs, "breedlab did not launch")):
        jobs.main(["stop", theirs, "--where", cluster])
    assert ray._connect(cluster).get_job_info(theirs).status.value == "RUNNING"
    ray._connect(cluster).stop_job(theirs)


class Cluster:
    """Ray's client, of a cluster that only notes what it is sent."""

    def __init__(
        self,
        error: Exception | None = None,
        state: str = "RUNNING",
        log: str = "first\nsecond\nhalf a li",
    ) -> None:
        self.error, self.state, self.log = error, state, log
        self.sent: list[dict[str, Any]] = []
        self.stopped: list[str] = []

    def get_address(self) -> str:
        return "http://cluster:8265"

    def submit_job(self, **request: Any) -> str:
        self.sent.append(request)
        if self.error:
            raise self.error
        return str(request["submission_id"])

    def get_job_info(self, name: str) -> Any:
        for request in self.sent:
            if request["submission_id"] == name and self.error is None:
                return self.details(request)
        raise RuntimeError(f"Request failed with status code 404: no {name}.")

    def get_job_logs(self, name: str) -> str:
        return self.log

    def stop_job(self, name: str) -> bool:
        self.stopped.append(name)
        return True

    def list_jobs(self) -> list[Any]:
        return [self.details(request) for request in self.sent]

    def details(self, request: dict[str, Any]) -> Any:
        return SimpleNamespace(
            status=SimpleNamespace(value=self.state),
            message="no room yet",
            metadata=request["metadata"],
            submission_id=request["submission_id"],
            start_time=1000,
        )


@pytest.fixture
def small(words: Words, here: Path) -> Words:
    address = "backend.ray.address=http://cluster:8265"
    return lambda *more: words("experiment=quickstart", "backend=ray", address, *more)


def connected(monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Cluster:
    monkeypatch.setattr(ray, "_connect", lambda address: cluster)
    return cluster


def test_a_dry_run_prints_the_very_request(
    small: Words, here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "secret-of-mine")
    more = ["backend.job_name=dogs", "backend.ray.cpus=2", "backend.ray.gpus=0.5"]
    more += ["+backend.environment={HF_TOKEN: '${oc.env:TOKEN}', LEVEL: '3'}"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert launch.main(small(*more, "dry_run=true")) == 0
    said = capsys.readouterr().out
    assert "secret-of-mine" not in said and list(here.iterdir()) == []
    address, _, rest = said.partition("POST ")[2].partition("\n")
    planned, _ = json.JSONDecoder().raw_decode(rest)
    assert address == "http://cluster:8265/api/jobs/"
    cluster = connected(monkeypatch, Cluster())
    assert launch.main(small(*more, "backend.wait=false")) == 0
    (sent,) = cluster.sent
    assert sent["runtime_env"]["env_vars"].pop("HF_TOKEN") == "secret-of-mine"
    assert planned["runtime_env"]["env_vars"].pop("HF_TOKEN") == "${oc.env:TOKEN}"
    sent["runtime_env"]["working_dir"] = planned["runtime_env"]["working_dir"]

    def undated(request: Any) -> str:
        return re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "<date_time>", json.dumps(request))

    assert undated(planned) == undated(sent)
    assert planned["submission_id"] == "dogs" and planned["entrypoint_num_gpus"] == 0.5
    assert "OMP_NUM_THREADS" not in planned["entrypoint"]
    assert "secret-of-mine" not in (job().run / "job.json").read_text()


def test_ray_installs_what_plugins_need_for_its_own_python(
    small: Words, here: Path, my_package: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "my_package" / "requirements.txt").write_text("# ours\nhumanize==4.12.0\n")
    cluster = connected(monkeypatch, Cluster())
    assert launch.main(small(my_package, "backend.wait=false")) == 0
    assert cluster.sent[-1]["runtime_env"]["pip"] == ["humanize==4.12.0"]
    other = "backend.ray.python=/opt/python"
    assert launch.main(small(my_package, other, "backend.wait=false")) == 0
    assert "pip" not in cluster.sent[-1]["runtime_env"]
    check_names(capsys.readouterr().out, ("backend.ray.python", "humanize==4.12.0"))


def test_images_that_are_not_here_are_no_reason_to_refuse(
    small: Words, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster())
    assert launch.main(small("data.root=/there/photos", "data.fixes=/there/f", "dry_run=true")) == 0
    assert launch.main(small("data.root=/there/photos", "backend.wait=false")) == 0
    assert capsys.readouterr().out.count("/there/photos") >= 2


def test_without_the_extra_one_sentence_names_it(
    small: Words, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with raises_code("BL401", names="breedlab[ray]") as missing:
        launch.main(small())
    assert missing.value.exit_code == 2 and list(here.iterdir()) == []


def test_an_address_without_a_cluster_is_refused(
    words: Words, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    nobody = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    with raises_code("BL400", names=(nobody, "ray start --head")):
        launch.main(words("experiment=quickstart", "backend=ray"))
    # an address of the config is preferred, though Ray's client prefers the variable
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        other = f"http://127.0.0.1:{server.server_port}"
        with raises_code("BL400", names=(other, "ray start --head")):
            launch.main(
                words("experiment=quickstart", "backend=ray", f"backend.ray.address={other}")
            )
        server.shutdown()
    assert list(here.iterdir()) == []


class Other(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *words: Any) -> None:
        pass


def test_another_generation_of_ray_is_refused(
    small: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "_version", lambda address: "1.13.0")
    with raises_code("BL400", names=("1.13.0", "http://cluster:8265")):
        launch.main(small())


def test_what_cannot_be_sent_is_refused_before_anything_is_written(
    small: Words, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = connected(monkeypatch, Cluster())
    with raises_code("BL103", names=("backend.ray.storage", "absolute")):
        launch.main(small("backend.ray.storage=shared", "dry_run=true"))
    with raises_code("BL103", names="backend.ray.address"):
        launch.main(small("backend.ray.address=cluster:8265", "dry_run=true"))
    with raises_code("BL109", names=("backend.environment.KEY", "NOT_SET_HERE")):
        launch.main(small("+backend.environment={KEY: '${oc.env:NOT_SET_HERE}'}"))
    (here / "file").touch()
    with raises_code("BL600", names=here / "file"):
        launch.main(small(f"backend.ray.storage={here}/file/runs"))
    assert not cluster.sent and [path.name for path in here.iterdir()] == ["file"]
    assert launch.main(small("backend.job_name=dogs", "backend.wait=false")) == 0
    with raises_code("BL400", names=("backend.job_name", "dogs")):
        launch.main(small("backend.job_name=dogs"))
    assert len(cluster.sent) == 1


def test_of_a_refused_job_nothing_is_left(
    small: Words, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster(RuntimeError("Request failed with status code 500: no room")))
    with raises_code("BL400", names=("no room", "http://cluster:8265")):
        launch.main(small(f"backend.ray.storage={here}/shared"))
    assert list(here.rglob("*.json")) == []


@pytest.mark.parametrize("refusals", [2, 1000])
def test_a_cluster_that_takes_no_jobs_yet_is_asked_again(
    refusals: int, small: Words, here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Starting(Cluster):
        def submit_job(self, **request: Any) -> str:
            if self.refused < refusals:
                self.refused += 1
                raise RuntimeError(
                    "Request failed with status code 500: No available agent to submit job, please"
                    " try again later.."
                )
            return super().submit_job(**request)

        refused = 0

    cluster = connected(monkeypatch, Starting())
    slept: list[float] = []
    monkeypatch.setattr(ray.time, "sleep", slept.append)
    words = small(f"backend.ray.storage={here}/shared", "backend.wait=false")
    if refusals == 2:
        assert launch.main(words) == 0
        assert len(cluster.sent) == 1 and capsys.readouterr().out.count("takes no jobs yet") == 1
        return
    with raises_code("BL400", names="No available agent"):
        launch.main(words)
    assert 50 < sum(slept) < 70 and list(here.rglob("*.json")) == []


def test_a_lost_answer_leaves_the_record_of_a_job_that_may_run(
    small: Words, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster(ConnectionError("reset")))
    with raises_code("BL402", names="jobs fetch") as lost:
        launch.main(small("backend.job_name=dogs"))
    assert "dogs" in str(lost.value) and job().name == "dogs"


def test_ctrl_c_ends_the_following_and_not_the_job(
    small: Words, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster())

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following.time, "sleep", interrupt)
    with raises_code("BL403", names=("jobs fetch dogs", "jobs stop dogs")) as detached:
        launch.main(small("backend.job_name=dogs"))
    assert detached.value.exit_code == 130 and job().status() == "running"
    said = capsys.readouterr().out.splitlines()
    # a line is shown once it is whole
    assert "first" in said and "second" in said and "half a li" not in said


def test_a_job_that_nobody_knows_has_every_backends_reason(here: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(BreedlabError) as unknown:
        jobs.main(["fetch", "dogs", "--where", f"http://127.0.0.1:{port}"])
    assert f"127.0.0.1:{port}" in str(unknown.value)


def test_of_a_traceback_only_the_error_is_shown() -> None:
    log = ["epoch 1", "Traceback (most recent call last):", "  File", "    line", "KeyError: 'x'"]
    assert following.without_traceback(log) == ["epoch 1", "KeyError: 'x'"]


def test_a_job_that_the_cluster_has_forgotten_is_fetched_if_its_run_is_complete(
    small: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = connected(monkeypatch, Cluster())
    assert launch.main(small("backend.job_name=dogs", "backend.wait=false")) == 0
    cluster.sent.clear()
    with raises_code("BL404", names=("dogs", "http://cluster:8265", "jobs resume dogs")):
        jobs.main(["fetch", "dogs"])
    (job().place / "metrics.json").write_text("{}")
    monkeypatch.setattr(shared_folder, "finished", lambda handle: {"run": handle.run})
    assert jobs.main(["fetch", "dogs"]) == 0


def test_a_job_that_waits_is_told_and_stopped(
    small: Words, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = connected(monkeypatch, Cluster(state="PENDING", log=""))
    seconds = iter(range(3))

    def wait(_: float) -> None:
        if next(seconds) == 2:
            cluster.state, cluster.log = "FAILED", "the whole log"

    monkeypatch.setattr(following.time, "sleep", wait)
    with raises_code("BL404", names=("dogs: failed", "the whole log")):
        launch.main(small("backend.job_name=dogs"))
    said = capsys.readouterr().out
    assert said.count("dogs: pending (no room yet)") == 1 and "the whole log" in said
    cluster.state = "PENDING"
    assert jobs.main(["stop", "dogs"]) == 0
    assert "dogs" in capsys.readouterr().out and cluster.stopped == ["dogs"]


def test_a_complete_run_is_continued_only_for_more_epochs(
    small: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = connected(monkeypatch, Cluster())
    assert launch.main(small("backend.job_name=dogs", "backend.wait=false")) == 0
    run = job().run
    for cluster.state in ("RUNNING", "SUCCEEDED"):
        with raises_code("BL400", names="jobs fetch dogs"):
            launch.main([f"resume={run}"])
    assert launch.main([f"resume={run}", "trainer.max_epochs=5"]) == 0
    assert [request["submission_id"] for request in cluster.sent] == ["dogs", "dogs-2"]
    assert job().config().trainer.max_epochs == 5


def test_a_node_without_the_shared_folder_or_a_file_of_the_config_says_so(
    small: Words, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raises_code("BL600", names=("/not/shared/run", socket.gethostname())):
        submission.work(["/not/shared/run", str(here)])
    connected(monkeypatch, Cluster())
    assert launch.main(small("data.fixes=/there/f", "backend.wait=false")) == 0
    place = job().place
    (here / "source").mkdir()
    submission.write_code(here / "source", job().config())
    monkeypatch.setattr(submission, "PACKAGE", here / "source" / "src" / "breedlab")
    with raises_code("BL600", names="/there/f"):
        submission.work([str(place), str(here)])


def test_all_jobs_are_listed_though_one_backend_cannot_be_asked(
    small: Words, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster())
    assert launch.main(small("backend.job_name=dogs", "backend.wait=false")) == 0

    def refuse(self: Any, where: str | None) -> None:
        raise BackendError("no credentials")

    monkeypatch.setattr(SageMakerBackend, "everyones", refuse)
    capsys.readouterr()
    assert jobs.main(["list", "--all"]) == 0
    check_names(capsys.readouterr().out, ("dogs", "no credentials", "http://cluster:8265"))
    monkeypatch.setattr(ray.RayBackend, "everyones", lambda self, where: None)
    with raises_code("BL400", names="no credentials"):
        jobs.main(["list", "--all"])


def test_each_record_has_the_settings_that_it_was_launched_with(
    small: Words, here: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster())
    monkeypatch.setenv("STORE", str(here / "first"))
    first = ["backend.job_name=first", "backend.ray.storage=${oc.env:STORE}"]
    assert launch.main(small(*first, "backend.wait=false")) == 0
    assert launch.main(small("backend.job_name=second", "backend.wait=false")) == 0
    handles: list[Any] = Launched(Path("runs")).all()
    storages = {handle.name: handle._backend.storage for handle in handles}
    assert storages == {"first": str(here / "first"), "second": None}
    file = next(handle.run for handle in handles if handle.name == "second") / "job.json"
    tree = json.loads(file.read_text())
    tree["config"]["backend"]["ray"]["cpus"] = "many"
    file.write_text(json.dumps(tree))
    capsys.readouterr()
    assert jobs.main(["list"]) == 0
    check_names(capsys.readouterr().out, ("first", "warning", str(file)))


def test_a_built_in_backend_is_one_file_and_one_yaml() -> None:
    yamls = {path.stem for path in (config_folder() / "backend").glob("*.yaml")}
    assert yamls == {name for name, kind in BACKENDS.items() if "breedlab" in kind.__module__}
    assert ray.Ray.__module__ == "breedlab.backends.ray"
    kinds = Path(ray.__file__).with_name("kinds.py").read_text()
    assert '"ray"' not in kinds and "backends.ray" not in kinds


def test_two_machines_that_launch_in_the_same_second_share_no_run(
    small: Words, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, Cluster())

    def now(parent: Path) -> Path:
        (parent / "now").mkdir()
        return parent / "now"

    monkeypatch.setattr(rundir, "_fresh", now)
    places = []
    for machine in ("one", "two"):
        (here / machine).mkdir()
        monkeypatch.chdir(here / machine)
        name = f"backend.job_name={machine}"
        assert launch.main(small(name, "backend.wait=false", f"backend.ray.storage={here}/s")) == 0
        places.append(job().place)
    assert places == [here / "s" / "quickstart" / stamp for stamp in ("now", "now_2")]
