"""The rules on whole runs: what is done when one fires, what is said at the end, and debug.py
afterwards."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import preloaded
import pytest
from codes import raises_code

from breedlab.cli import debug
from breedlab.config import Config, validate
from breedlab.config.compose import load
from breedlab.config.debugger import DebuggerRule
from breedlab.debugging.actions import on
from breedlab.debugging.reader import TensorLog, losses, opened
from breedlab.debugging.rules.plain import PlainRule
from breedlab.debugging.tensors import read_tensors
from breedlab.pipeline import run as runs
from breedlab.verdicts import NOT_ENOUGH, Finding, NotEnough, Verdict

Words = Callable[..., list[str]]
Configure = Callable[..., Config]

# A fault that any training has: no two steps bring the loss down to a tenth.
FAULT = "debugger.rules.loss_not_decreasing={window:2,decrease:0.9,action:%s}"


@pytest.fixture(scope="module")
def told() -> list[Verdict]:
    """What an action was told while `stopped` trained."""
    return []


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, words: Words, told: list[Verdict]) -> Path:
    """A run that a rule ends after its first epoch of two."""
    made = words(
        "name=stopped",
        "model.name=resnet18",  # in whose random features gradients do not vanish
        f"runs_dir={tmp_path_factory.mktemp('runs')}",
        "debugger=default",
        FAULT % "stop",
    )

    @on("LossNotDecreasing")
    def note(verdict: Verdict) -> None:
        told.append(verdict)

    @on("LossNotDecreasing")
    def stumble(verdict: Verdict) -> None:
        raise RuntimeError("no network")

    config = validate(load([*made, "debugger.every=2"]))
    return runs.run(config, made, callbacks=[note, stumble]).run


def test_a_rule_may_end_training_with_its_reason(stopped: Path) -> None:
    training = json.loads((stopped / "metrics.json").read_text())["training"]
    assert training["epochs"] == 1
    assert training["ended"] == "stopped after epoch 1 by the debugger: LossNotDecreasing"
    assert len(losses(stopped)["TRAIN"]) == 7


def test_a_rule_may_call_a_function_once_and_its_failure_stops_nothing(
    stopped: Path, told: list[Verdict]
) -> None:
    (verdict,) = told
    assert (verdict.rule, verdict.verdict, verdict.steps) == ("LossNotDecreasing", "triggered", [6])


@pytest.mark.parametrize("content", [b"", b"half", bytes(range(256)) * 40])
def test_a_damaged_recording_is_named_by_its_file(
    stopped: Path, tmp_path: Path, content: bytes
) -> None:
    """A disk that was full, or a power cut."""
    copied = Path(shutil.copytree(stopped, tmp_path / "copy"))
    for file in (copied / "debug").rglob("*.tensors"):
        file.write_bytes(content)
    with raises_code("BL200", names=".tensors"):
        debug.main([str(copied)])


@pytest.mark.slow
def test_two_processes_are_recorded_by_the_first_and_end_together(
    words: Words, tmp_path: Path
) -> None:
    made = words(
        "name=two", f"runs_dir={tmp_path}", "model.freeze=none", "debugger=default", FAULT % "stop"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch = preloaded.run(
        [*torchrun, "-m", "breedlab.cli", "launch", *made], capture_output=True, text=True
    )
    assert launch.returncode == 0, launch.stderr
    run = (tmp_path / "latest").resolve()
    assert (
        "by the debugger: LossNotDecreasing"
        in json.loads((run / "metrics.json").read_text())["training"]["ended"]
    )
    assert [folder.name for folder in (run / "debug").iterdir() if folder.is_dir()] == ["0"]
    found = losses(run)
    assert [step for step, _ in found["TRAIN"]] == list(range(1, 8)) and found["EVAL"]


def test_a_function_for_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\bOverfitted\b.*\bLossNotDecreasing\b"):
        on("Overfitted")


def test_the_run_s_verdicts_are_kept_as_the_profiler_s_are(stopped: Path) -> None:
    found = json.loads((stopped / "debug" / "verdicts.json").read_text())
    assert len(found) == 15
    assert set(found[0]) == {
        *("rule", "verdict", "figures", "meaning", "advice", "mode", "steps", "tensors", "link")
    }
    by_rule = {verdict["rule"]: verdict for verdict in found}
    assert by_rule["LossNotDecreasing"]["verdict"] == "triggered"
    # Only the head ran: it has no bounded activation, which the verdict says, with the mode.
    silent = by_rule["SaturatedActivation"]
    assert silent["verdict"] == "not_enough_data" and "bounded activations" in silent["meaning"]
    assert "TRAIN" in silent["meaning"]
    assert by_rule["ClassImbalance"]["figures"]["labels"] == 100


def test_what_a_report_shows_of_the_recording_is_kept_until_more_is_recorded(
    stopped: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped / "debug", run / "debug")
    kept = read_tensors(run)
    (run / "debug" / "report.json").rename(tmp_path / "aside.json")
    # from smdebug's own files
    assert kept == read_tensors(run) and kept.losses["TRAIN"] and kept.figures["weights"]
    other = json.loads((tmp_path / "aside.json").read_text()) | {"losses": {"TRAIN": [[1, 9.0]]}}
    (run / "debug" / "report.json").write_text(json.dumps(other))
    assert read_tensors(run).losses == {"TRAIN": [(1, 9.0)]}
    shutil.copytree(run / "debug" / "0", run / "debug" / "1")  # as a resumed run would leave it
    assert len(read_tensors(run).losses["TRAIN"]) == 7


def test_training_without_a_sound_loss_leaves_its_verdicts(
    words: Words, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = words(
        "name=broken",
        f"runs_dir={tmp_path}",
        "debugger=default",
        "debugger.every=1",
        "optim.lr=1e30",
    )
    with raises_code("BL304"):
        runs.run(validate(load(made)), made)
    assert "rules triggered" in capsys.readouterr().out
    found = json.loads((tmp_path / "latest" / "debug" / "verdicts.json").read_text())
    fired = [verdict["rule"] for verdict in found if verdict["verdict"] == "triggered"]
    assert "NaN/Inf" in fired


def test_debug_tells_what_was_found_and_by_its_exit_code_whether(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert debug.main([str(stopped)]) == 1
    said = capsys.readouterr().out
    assert (
        "LossNotDecreasing, step 6: CrossEntropyLoss_output_0" in said
        and "see report.html#loss" in said
    )
    assert (
        "debug: 7 losses in training, 1 losses in validation; 1 rule triggered: LossNotDecreasing"
        in said
    )
    assert debug.main([str(stopped), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == json.loads(
        (stopped / "debug" / "verdicts.json").read_text()
    )


def test_debug_of_a_run_without_a_fault_ends_with_0(stopped: Path, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    sound.mkdir()
    # no config of its own: the default thresholds, which it meets
    (sound / "debug").symlink_to(stopped / "debug")
    assert debug.main([str(sound)]) == 0


@pytest.mark.parametrize(
    ("made", "code"), [("gone", "BL115"), ("run", "BL115"), ("run/config.yaml", "BL203")]
)
def test_debug_of_nothing_is_one_clear_message(tmp_path: Path, made: str, code: str) -> None:
    (tmp_path / made).mkdir(parents=True)
    with raises_code(code, names=tmp_path / "run") as raised:
        debug.main([str(tmp_path / "run")])
    assert raised.value.exit_code == 2


def test_a_damaged_recording_is_one_clear_message(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped / "debug", tmp_path / "run" / "debug")
    next((tmp_path / "run" / "debug" / "0").glob("index/*/*.json")).write_text("{")
    with raises_code("BL200", names="Empty/Corrupt Index File"):
        debug.main([str(tmp_path / "run")])


def test_s3_without_credentials_is_one_clear_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import boto3
    from smdebug.core.access_layer.s3handler import S3Handler

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    # which remembers the credentials of an earlier test
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    S3Handler.client.cache_clear()
    with raises_code("BL200", names=("s3://bucket/run", "credentials")):
        debug.main(["s3://bucket/run"])
    S3Handler.client.cache_clear()


def test_a_recording_is_read_from_s3(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import mock_aws
    from smdebug import modes
    from smdebug.core.access_layer.s3handler import S3Handler
    from smdebug.trials import create_trial

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    # the mock is this process's
    monkeypatch.setattr(S3Handler, "GET_OBJECTS_MULTIPROCESSING_THRESHOLD", 1_000_000)
    S3Handler.client.cache_clear()
    with mock_aws():
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        for file in (stopped / "debug").rglob("*"):
            if file.is_file():
                client.upload_file(str(file), "bucket", f"jobs/one/{file.relative_to(stopped)}")
        assert losses("s3://bucket/jobs/one") == losses(stopped)
        plain = create_trial("s3://bucket/jobs/one/debug/0")
        assert len(plain.tensor("CrossEntropyLoss_output_0").values(modes.TRAIN)) == 7
        assert debug.main(["s3://bucket/jobs/one/"]) == 0
        with raises_code("BL203", names="s3://bucket/jobs/two"):
            debug.main(["s3://bucket/jobs/two"])
    S3Handler.client.cache_clear()


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("debugger.every=-1", ["debugger.every: ", "-1"]),
        (
            "debugger.rules.overfit.action=shout",
            ["debugger.rules.overfit.action: ", "'shout'", "warn, stop"],
        ),
        (
            "debugger.collections.weights.train=often",
            ["debugger.collections.weights.train: ", "'often'"],
        ),
    ],
)
def test_a_fault_of_the_config_is_told_once(words: Words, word: str, names: list[str]) -> None:
    with raises_code("BL103", names=["1 problem", *names]):
        validate(load(words("debugger=full", word)))


class Falls(DebuggerRule):
    """A rule that compares epochs, and so has nothing to say of the first."""

    title, needs = "Falls", "the losses of two epochs"

    def check(self, recording: TensorLog, step: int) -> Finding:
        if len(recording.passes("TRAIN")) < 2:
            raise NotEnough("one epoch only")
        return Finding(True)


def test_a_rule_of_one_class_says_what_it_lacks_as_the_profilers_do(stopped: Path) -> None:
    rule = PlainRule(TensorLog(opened(stopped)), Falls())
    rule.catch_up()
    verdict = rule.verdict()
    assert (verdict.verdict, verdict.meaning) == (NOT_ENOUGH, "one epoch only")
