"""Archives as anybody may have made them: each kind of damage is one message, and none takes
memory, disk or keys."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codes import Names, raises_code
from safetensors.torch import load_file, save_file

from breedlab.archives import opened
from breedlab.backends.sagemaker.endpoints import archive_check, hidden_home
from breedlab.serving.archive import write_archive
from breedlab.serving.description import read_description
from breedlab.serving.model import Model


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, link
    return made


def tar(*members: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for one in members:
            archive.addfile(one, io.BytesIO(bytes(one.size)))
    return buffer.getvalue()


def bomb(header: tarfile.TarInfo, megabytes: int) -> bytes:
    """A member of that many zeros, some thousand times smaller."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as zipped:
        header.size = megabytes * 1_000_000
        zipped.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(megabytes):
            zipped.write(bytes(1_000_000))
    return buffer.getvalue()


def sparse() -> bytes:
    """As GNU tar writes a file of a terabyte that holds nothing."""
    info = member("model.safetensors", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % (10**9 * 8)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return gzip.compress(bytes(header) + bytes(1024))


DAMAGED, SUSPECT = "BL505", "BL506"
ARCHIVES: dict[str, tuple[Callable[[], bytes], str, Names]] = {
    "nothing": (lambda: b"", DAMAGED, ()),
    "no gzip": (lambda: b"words", DAMAGED, ()),
    "gzip of something else": (lambda: gzip.compress(b"words" * 1000), DAMAGED, ()),
    "gzip cut short": (
        lambda: tar(member("model.json", size=5000))[:-20],
        DAMAGED,
        (),
    ),
    "gzip with a bit turned": (
        lambda: tar(member("a", size=5000))[:-8] + bytes(8),
        DAMAGED,
        (),
    ),
    "damaged deflate": (
        lambda: tar(member("a", size=90))[:20] + b"\xff" * 40,
        DAMAGED,
        (),
    ),
    "a path upwards": (lambda: tar(member("../evil")), SUSPECT, "../evil"),
    "a path upwards further in": (
        lambda: tar(member("code/../../evil")),
        SUSPECT,
        "code/../../evil",
    ),
    "an absolute path": (lambda: tar(member("/tmp/evil")), SUSPECT, "/tmp/evil"),
    "a link": (
        lambda: tar(member("model.json", tarfile.SYMTYPE, link="/etc/passwd")),
        SUSPECT,
        "model.json",
    ),
    "a hard link": (
        lambda: tar(member("model.json", tarfile.LNKTYPE, link="/etc/passwd")),
        SUSPECT,
        "model.json",
    ),
    "a device": (lambda: tar(member("model.json", tarfile.CHRTYPE)), SUSPECT, "model.json"),
    "a pipe": (lambda: tar(member("model.json", tarfile.FIFOTYPE)), SUSPECT, "model.json"),
    "a file of nothing": (sparse, SUSPECT, "model.safetensors"),
    "a file twice": (lambda: tar(member("a"), member("a")), SUSPECT, "a"),
    "a file that is a folder": (lambda: tar(member("a"), member("a/b")), DAMAGED, ()),
    "a bomb": (lambda: bomb(member("model.safetensors"), 300), SUSPECT, "MB"),
    "a header that is a bomb": (
        lambda: bomb(member("././@PaxHeader", tarfile.XHDTYPE), 300),
        SUSPECT,
        "header",
    ),
    "a name that is a bomb": (
        lambda: bomb(member("././@LongLink", tarfile.GNUTYPE_LONGNAME), 300),
        SUSPECT,
        "header",
    ),
    "thousands of files": (
        lambda: tar(*(member(str(n)) for n in range(10_001))),
        SUSPECT,
        "10,000",
    ),
    "a name that steers the terminal": (
        lambda: tar(member("\x1b[2J", tarfile.FIFOTYPE)),
        SUSPECT,
        r"\x1b[2J",
    ),
    "no model": (lambda: tar(member("readme")), "BL507", "model.json"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_or_hostile_archive_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, code, names = ARCHIVES[name]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    path = tmp_path / "model.tar.gz"
    path.write_bytes(make())
    with raises_code(code, names=names) as caught, opened(path):
        pass
    assert str(caught.value).startswith(str(path))
    assert (
        len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < len(str(path)) + 300
    )
    assert not list(scratch.iterdir()) and sorted(p.name for p in tmp_path.iterdir()) == [
        "model.tar.gz",
        "scratch",
    ]


def test_what_breedlab_packs_is_unpacked_as_it_was(tmp_path: Path, folder: Path) -> None:
    write_archive(tmp_path / "model.tar.gz", folder)
    with opened(tmp_path / "model.tar.gz") as unpacked:
        for file in (path for path in folder.rglob("*") if path.is_file()):
            assert (unpacked / file.relative_to(folder)).read_bytes() == file.read_bytes()


HUGE = 10**4299
UNKNOWN = {"method": "nearest", "width": 512, "threshold": 1.0, "quantiles": [0.0, 1.0]}
NEWER = [("format", 3), ("schema_version", 99)]
WRONG: list[tuple[str, Any, str]] = [
    *(
        (field, value, field)
        for field in ("format", "schema_version")
        for value in (None, "1", 1.5, True, 0, [], HUGE)
    ),
    *(
        ("classes", value, "classes")
        for value in (None, "abcd", [], [1, 2, 3, 4], ["a"] * 4, {"a": 1}, [None] * 4)
    ),
    *(("architecture", value, "architecture") for value in (None, [], "x", {})),
    *(("architecture.name", value, "name") for value in (None, 3, "", "x" * 2000)),
    *(("architecture.classes", value, "classes") for value in (None, "4", 5, -1, 10**9, 4.0, HUGE)),
    *(("architecture.head", value, "head") for value in (None, 3, ["a"], [-1], [10**12], [1] * 99)),
    *(("architecture.dropout", value, "dropout") for value in (None, "x", 2, float("nan"), HUGE)),
    *(
        ("architecture.std", value, "std")
        for value in (None, [1, 1], [1, 1, 0], ["a", 1, 1], [float("nan")] * 3)
    ),
    *(("transform", value, "transform") for value in (None, [], {})),
    *(("transform.crop", value, "crop") for value in (None, 0, 10**9, "32", 1.5)),
    *(("transform.interpolation", value, "interpolation") for value in (None, "nearest", [])),
    *(("transform.mean", value, "mean") for value in (None, 3, [1, 2, float("inf")])),
    *(("lineage", value, "lineage") for value in (None, [], "x")),
    *(("allow_urls", value, "allow_urls") for value in (3, {"a": 1}, ["http://x/"], [3])),
    *(("answers", value, "answers") for value in (None, [], "x")),
    *(
        ("answers.temperature", value, "temperature")
        for value in (None, "1", 0, -1.0, float("inf"), HUGE)
    ),
    *(
        ("answers.sets", value, "answers.sets")
        for value in ([], "x", {}, {"coverage": 0.9, "least": 1.5})
    ),
    *(
        ("answers.thresholds", value, "answers.thresholds")
        for value in ([], "x", {}, [0.5] * 5, [0.5, 0.5, 0.5, 1.5], [0.5, 0.5, 0.5, None])
    ),
    *(("answers.flip_tta", value, "answers.flip_tta") for value in (None, 1, "true")),
    (
        "answers",
        {"thresholds": [0.5] * 4, "sets": {"coverage": 0.9, "least": 0.1}},
        "thresholds and sets",
    ),
    ("answers", {"thresholds": [0.5] * 4, "unknown": {**UNKNOWN, "row": True}}, "unknown"),
    *(
        ("answers.unknown", {**UNKNOWN, field: value}, f"answers.unknown.{field}")
        for field, value in [
            ("method", "guess"),
            ("width", 0),
            ("width", 10**9),
            ("threshold", None),
            ("threshold", float("nan")),
            ("quantiles", []),
            ("quantiles", [2, 1]),
            ("quantiles", ["a"]),
            ("row", "yes"),
        ]
    ),
    *(("engine", value, "engine") for value in ([], "x", {}, {"name": "x", "precision": "fp32"})),
    (
        "engine",
        {"name": "openvino", "precision": "fp32", "file": "../../etc/passwd"},
        "engine.file",
    ),
    (
        "engine",
        {"name": "openvino", "precision": "fp32", "file": "engines/fp32.onnx"},
        "engine.file",
    ),
    (
        "engine",
        {"name": "mine", "precision": "fp32", "file": "engines/fp32.bin", "requirements": "x"},
        "engine.requirements",
    ),
]


def written(folder: Path, source: Path, field: str, value: Any) -> None:
    """Write the model.json of another folder with one field changed."""
    tree = json.loads((source / "model.json").read_text())
    inner = tree
    *path, last = field.split(".")
    for part in path:
        inner = inner[part]
    inner[last] = value
    text = "{}" + "9" * 5000 if value is HUGE else json.dumps(tree)
    (folder / "model.json").write_text(text)


@pytest.mark.parametrize(("field", "value"), NEWER)
def test_a_model_json_of_a_newer_breedlab_is_known_for_it(
    tmp_path: Path, folder: Path, field: str, value: int
) -> None:
    written(tmp_path, folder, field, value)
    with raises_code("BL111", names=("model.json", f"{field} {value}")):
        read_description(tmp_path)


@pytest.mark.parametrize(("field", "value", "named"), WRONG, ids=lambda value: repr(value)[:30])
def test_what_model_json_says_is_checked(
    tmp_path: Path, folder: Path, field: str, value: Any, named: str
) -> None:
    written(tmp_path, folder, field, value)
    with raises_code("BL507", names=() if value is HUGE else named) as caught:
        read_description(tmp_path)
    assert str(caught.value).startswith("model.json: ")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"\xff", b"[" * 100_000, b"9" * 5000, b"{}"]
)
def test_what_is_no_model_json_is_one_message(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.json").write_bytes(content)
    with raises_code("BL507", names="model.json"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["regnet_y_128gf", "vit_h_14", "timm/vit_giant_patch14_224", "timm/eva_giant_patch14_224"],
)
def test_a_giant_is_refused_before_it_is_built(
    tmp_path: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any, **__: Any) -> None:
        raise AssertionError("memory would be taken for it")

    monkeypatch.setattr("breedlab.models.backbone.build", build)
    shutil.copytree(folder, tmp_path / "archive")
    tree = json.loads((folder / "model.json").read_text())
    tree["architecture"]["name"] = name
    (tmp_path / "archive" / "model.json").write_text(json.dumps(tree))
    with raises_code("BL508", names=("model.safetensors", name)):
        Model(tmp_path / "archive")


def _lacking(state: dict[str, torch.Tensor]) -> None:
    del state["backbone.bn1.weight"]


def _poisoned(state: dict[str, torch.Tensor]) -> None:
    state["backbone.bn1.weight"][3] = float("nan")


def _other(name: str, value: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_lacking, "backbone.bn1.weight"),
        (_poisoned, ("backbone.bn1.weight", "NaN")),
        (_other("backbone.bn1.bias", torch.zeros(3)), ("backbone.bn1.bias", "(3,)", "(64,)")),
        (
            _other("backbone.bn1.bias", torch.zeros(64, dtype=torch.int64)),
            ("backbone.bn1.bias", "int64", "float32"),
        ),
        (_other("more", torch.zeros(1)), " more, "),
        (_other("head.9.weight", torch.zeros(5, 5)), ("head", "5")),
    ],
)
def test_weights_that_are_not_the_networks_are_one_message(
    tmp_path: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None], names: Names
) -> None:
    content = tmp_path / "content"
    shutil.copytree(folder, content)
    state = {
        name: value.clone() for name, value in load_file(str(folder / "model.safetensors")).items()
    }
    change(state)
    save_file(state, str(content / "model.safetensors"))
    with raises_code("BL508", names=names) as caught:
        Model(content)
    assert str(caught.value).startswith("model.safetensors: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"words", b"\xff" * 100, (2**62).to_bytes(8, "little") + b"{}"]
)
def test_a_file_that_is_no_safetensors_is_one_message(
    tmp_path: Path, folder: Path, content: bytes | None
) -> None:
    made = tmp_path / "content"
    shutil.copytree(folder, made)
    (made / "model.safetensors").unlink()
    if content is not None:
        (made / "model.safetensors").write_bytes(content)
    with raises_code("BL508", names="model.safetensors"):
        Model(made)


def test_an_architecture_that_is_not_known_is_one_message(tmp_path: Path, folder: Path) -> None:
    made = tmp_path / "content"
    shutil.copytree(folder, made)
    tree = json.loads((made / "model.json").read_text())
    for shape, name in (
        ({"name": "resnet9000"}, "resnet9000"),
        ({"name": "timm/nothing"}, "nothing"),
        ({"twist": 3}, "twist"),
    ):
        changed = {**tree, "architecture": {**tree["architecture"], **shape}}
        (made / "model.json").write_text(json.dumps(changed))
        with raises_code("BL507", names=("model.json", name)):
            Model(made)


def test_an_archives_code_sees_no_keys(
    tmp_path: Path, folder: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code tells what it finds, by way of the reason for which it fails."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = SECRET\n")
    monkeypatch.setenv("HOME", str(home))
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "GITHUB_TOKEN",
        "MY_PASSWORD",
    ):
        monkeypatch.setenv(name, "SECRET")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://SECRET/")
    content = tmp_path / "content"
    shutil.copytree(folder, content)
    (content / "code" / "inference.py").write_text(
        "import os, pathlib\nfile = pathlib.Path.home() / '.aws' / 'credentials'\nfound ="
        " [f'{k}={v}' for k, v in os.environ.items() if 'SECRET' in v or v =="
        " os.environ.get('NO')]\nraise RuntimeError(f'found {found} {file.exists()}"
        " {sorted(os.environ)}')\n"
    )
    with raises_code("BL500", names="found [] False") as caught:
        archive_check.lint(content)
    assert "SECRET" not in str(caught.value) and "GITHUB_TOKEN" not in str(caught.value)
    assert os.environ["AWS_ACCESS_KEY_ID"] == "SECRET"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home folder with keys, in the usual places and in one that a variable names."""
    for name in (
        ".aws/credentials",
        ".ssh/id_rsa",
        ".config/gh/hosts.yml",
        ".netrc",
        "elsewhere/config",
        "notes.txt",
    ):
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).write_text("SECRET")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "home" / "elsewhere" / "config"))
    hidden_home._is_allowed.cache_clear()
    yield tmp_path / "home"
    hidden_home._is_allowed.cache_clear()


STEAL = """
import pathlib, subprocess
home = pathlib.Path({home!r})
for path in (home / ".aws", home / ".ssh", home / ".netrc"):
    subprocess.run(["umount", path], capture_output=True)
found = sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and p.read_text() == "SECRET")
outside = pathlib.Path("/proc/{pid}/root", *home.parts[1:], ".netrc")
try:
    found += [outside.read_text()] if outside.read_text() == "SECRET" else []
except OSError:
    pass
raise RuntimeError(f"found {{found}}")
"""  # noqa: E501


def stolen(content: Path, folder: Path, home: Path) -> str:
    """What an archive's code finds of the keys, though it knows their paths."""
    shutil.copytree(folder, content)
    (content / "code" / "inference.py").write_text(STEAL.format(home=str(home), pid=os.getpid()))
    with raises_code("BL500", names="found") as caught:
        archive_check.lint(content)
    return str(caught.value)


def test_an_archives_code_finds_no_keys_by_their_paths(
    tmp_path: Path, folder: Path, home: Path
) -> None:
    if not hidden_home._is_allowed():
        pytest.skip("an ordinary user cannot create a mount namespace on this system")
    assert "found ['notes.txt']" in stolen(tmp_path / "content", folder, home)
    assert hidden_home.exposed() == ""
    assert (home / ".aws" / "credentials").read_text() == "SECRET"


def test_keys_that_cannot_be_hidden_are_named(
    tmp_path: Path, folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "unshare").write_text("#!/bin/sh\necho unshare: Operation not permitted >&2\nexit 1\n")
    (bare / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", str(bare), prepend=os.pathsep)
    for name in (".aws", ".ssh", ".netrc", ".config", "elsewhere/config"):
        assert str(home / name) in hidden_home.exposed()
    assert "deploy only archives that you trust" in hidden_home.exposed()
    assert ".aws/credentials" in stolen(tmp_path / "content", folder, home), (
        "and the code runs all the same"
    )


def test_the_model_answers_as_before(folder: Path, image: bytes) -> None:
    model = Model(folder)
    assert np.isfinite(model.scores(model.prepare(image)[None]).numpy()).all()
