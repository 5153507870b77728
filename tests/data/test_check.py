"""The check before training: every broken or leaked file in one message, and each file read
once."""

from __future__ import annotations

import os
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from codes import raises_code
from PIL import Image

from breedlab.data.check import KEEP_ONE, Report, check
from breedlab.data.folders import SPLITS, survey
from breedlab.data.image_set import ImageSet


def paint(path: Path, seed: int) -> Path:
    """A small image, another one for each seed, of the kind that the name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
        path
    )
    return path


def build(root: Path, train: int = 4, valid: int = 2, test: int = 2) -> Path:
    seed = 0
    for split, count in zip(SPLITS, (train, valid, test), strict=True):
        for name in ("cat", "dog"):
            for i in range(count):
                seed += 1
                paint(root / split / name / f"{i}.jpg", seed)
    return root


def build_twice(root: Path) -> Path:
    """Folders of classes alone, each image in them twice: a cut puts some of the copies apart."""
    for name, seed in (("cat", 0), ("dog", 100)):
        for i in range(20):
            paint(root / name / f"{i}.jpg", seed + i)
            shutil.copy(root / name / f"{i}.jpg", root / name / f"{i} copy.jpg")
    return root


def images_of(root: Path) -> ImageSet:
    return survey(root, valid_fraction=0.2, test_fraction=0.2, seed=0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "photos")


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "memory"


def run(root: Path, memory: Path, on_bad_file: str = "error") -> Report:
    return check(images_of(root), memory, on_bad_file=on_bad_file)


def refusal(root: Path, memory: Path) -> str:
    with raises_code("BL200") as error:
        run(root, memory)
    return str(error.value)


def paths(images: ImageSet, split: str) -> list[Path]:
    return [image.path for image in images.splits[split]]


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that are opened from here on."""
    seen: list[Path] = []
    really = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        seen.append(path)
        return really(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    return seen


def rewrite(path: Path, data: bytes) -> None:
    """New content at a later time, even where the clock of the file system is coarse."""
    later = path.stat().st_mtime_ns + 5_000_000_000
    path.write_bytes(data)
    os.utime(path, ns=(later, later))


def break_some(root: Path) -> dict[Path, str]:
    """Broken files in every split, by path with a word of the reason."""
    home = root / "train" / "cat"
    whole = (home / "0.jpg").read_bytes()
    bomb = bytearray(whole)
    sides = bomb.index(b"\xff\xc0") + 5
    bomb[sides : sides + 4] = struct.pack(">HH", 60_000, 60_000)
    broken = {
        home / "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        home / "empty.jpg": (b"", "is empty"),
        home / "huge.jpg": (bytes(bomb), "absurdly large"),
        root / "valid" / "dog" / "page.jpg": (b"<html>not found</html>", "is not an image"),
        root / "test" / "cat" / "torn.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 200, "is "),
    }
    for path, (data, _) in broken.items():
        path.write_bytes(data)
    return {path: word for path, (_, word) in broken.items()}


def test_good_images_pass_as_they_are(root: Path, memory: Path) -> None:
    found = run(root, memory)
    assert found.images == images_of(root)
    assert (found.bad, found.leaks, found.warnings) == ((), (), ())


@pytest.mark.parametrize("ending", ["png", "gif", "webp", "bmp", "tiff"])
def test_images_of_every_kind_pass(ending: str, root: Path, memory: Path) -> None:
    paint(root / "train" / "cat" / f"x.{ending}", 99)
    assert run(root, memory).bad == ()


def test_every_broken_file_is_listed_with_its_path_and_reason_in_one_error(
    root: Path, memory: Path
) -> None:
    broken = break_some(root)
    message = refusal(root, memory)
    lines = message.splitlines()
    for path, word in broken.items():
        (line,) = (line for line in lines if str(path) in line)
        assert word in line
    assert "5 broken files" in lines[0]
    assert "data.on_bad_file=skip" in lines[-1]
    assert f"breedlab check {root}" in lines[-2]
    assert len(lines) == len(broken) + 3


def test_broken_files_leaks_empty_and_imbalanced_classes_are_told_together(
    root: Path, memory: Path
) -> None:
    """Each refusal costs the person a round; what is mended after this one passes."""
    broken = break_some(root)
    leaked, rare = root / "train" / "cat" / "0.jpg", root / "train" / "dog"
    shutil.copy(leaked, root / "test" / "dog" / "copy.jpg")
    (root / "train" / "emu").mkdir()
    for split in ("valid", "test"):
        (root / split / "emu").mkdir()
    for i in range(40):
        paint(root / "train" / "cat" / f"more{i}.jpg", 3000 + i)
    with raises_code("BL200", names=("5 broken files", "1 image", *broken, leaked, "emu", 43)):
        run(root, memory)
    with raises_code("BL200", names="emu") as under_skip:
        run(root, memory, "skip")
    assert not any(str(path) in str(under_skip.value) for path in (*broken, leaked))
    for path in (*broken, leaked):
        path.unlink()
    for split in SPLITS:
        (root / split / "emu").rmdir()
    for i in range(2):
        paint(rare / f"more{i}.jpg", 4000 + i)
    assert run(root, memory).bad == ()


def test_copies_that_a_cut_puts_apart_are_told_beside_broken_files(
    tmp_path: Path, memory: Path
) -> None:
    root = build_twice(tmp_path / "bare")
    (root / "cat" / "empty.jpg").write_bytes(b"")
    apart = len(run(root, memory, "skip").leaks)
    assert apart > 1
    with raises_code("BL200", names=("1 broken file", f"{apart} copies", "train")):
        run(root, memory)


def test_of_many_findings_the_first_are_told_and_a_file_has_them_all(
    root: Path, memory: Path
) -> None:
    for i in range(20):
        (root / "train" / "cat" / f"empty{i:02}.jpg").write_bytes(b"")
        copy = paint(root / "train" / "dog" / f"copy{i:02}.jpg", 500 + i)
        shutil.copy(copy, root / "test" / "dog" / f"copy{i:02}.jpg")
    lines = refusal(root, memory).splitlines()
    assert "20 broken files and 20 images that stand in two splits" in lines[0]
    assert lines.count("  and 12 more") == 2
    assert len(lines) == 1 + 2 * 9 + 3
    (place,) = (line.partition(": ")[2] for line in lines if "all of them" in line)
    assert len(Path(place).read_text().splitlines()) == 40


def test_skip_leaves_broken_files_out_and_reports_them(root: Path, memory: Path) -> None:
    whole = images_of(root)
    broken = break_some(root)
    found = run(root, memory, "skip")
    assert {finding.path for finding in found.bad} == set(broken)
    assert all(broken[finding.path] in finding.reason for finding in found.bad)
    assert found.images.splits == whole.splits
    assert found.images.classes == whole.classes


@pytest.mark.parametrize(
    ("first", "second"), [("train", "valid"), ("train", "test"), ("valid", "test")]
)
def test_a_image_in_two_splits_is_refused_with_both_paths(
    root: Path, memory: Path, first: str, second: str
) -> None:
    one, other = root / first / "cat" / "0.jpg", root / second / "dog" / "copy.jpg"
    shutil.copy(one, other)
    message = refusal(root, memory)
    assert f"{one} is the same image as {other} of the {second} split" in message
    assert "1 image that stands in two splits" in message
    assert "broken files" not in message


def test_skip_keeps_the_test_split_whole_and_takes_leaks_out_of_the_others(
    root: Path, memory: Path
) -> None:
    test = paths(images_of(root), "test")
    leaked = [root / "train" / "cat" / "leak.jpg", root / "valid" / "cat" / "leak.jpg"]
    for path in leaked:
        shutil.copy(test[0], path)
    from_valid = root / "train" / "dog" / "leak.jpg"
    shutil.copy(root / "valid" / "dog" / "0.jpg", from_valid)
    found = run(root, memory, "skip")
    assert paths(found.images, "test") == test
    assert {finding.path for finding in found.leaks} == {*leaked, from_valid}
    assert [found.images.counts(split) for split in SPLITS] == [[4, 4], [2, 2], [2, 2]]


def test_of_a_image_in_two_classes_no_copy_is_left_and_both_modes_say_how_to_keep_one(
    root: Path, memory: Path
) -> None:
    one, other = root / "train" / "cat" / "0.jpg", root / "train" / "dog" / "copy.jpg"
    shutil.copy(one, other)
    message = refusal(root, memory)
    assert f"{one} is the same image as {other}, of another class" in message
    assert KEEP_ONE in message
    found = run(root, memory, "skip")
    assert {finding.path for finding in found.conflicts} == {one, other}
    assert not {one, other} & {*paths(found.images, "train")}
    other.unlink()  # as it says
    assert one in paths(run(root, memory).images, "train")


def test_copies_within_one_split_are_fine(root: Path, memory: Path) -> None:
    shutil.copy(root / "train" / "cat" / "0.jpg", root / "train" / "cat" / "again.jpg")
    found = run(root, memory)
    assert found.leaks == ()
    assert found.images.counts("train") == [5, 4]


def test_copies_in_train_that_a_cut_puts_apart_are_left_out_without_a_refusal(
    tmp_path: Path, memory: Path
) -> None:
    """The person did nothing wrong: it was the cut that put one copy here and one there."""
    root = build_twice(tmp_path / "bare")
    found = run(root, memory)
    assert found.leaks
    contents = [{path.read_bytes() for path in paths(found.images, split)} for split in SPLITS]
    assert (
        not contents[0] & contents[1]
        and not contents[0] & contents[2]
        and not contents[1] & contents[2]
    )
    assert len(set.union(*contents)) == 40, "each image is still there once"


@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_image_of_train_in_the_test_folder_is_refused_wherever_the_cut_puts_it(
    tmp_path: Path, memory: Path, part: str
) -> None:
    root = build(tmp_path / "photos", train=10)
    shutil.rmtree(root / "valid")
    leaked = paths(images_of(root), part)[0]
    shutil.copy(leaked, root / "test" / "cat" / "copy.jpg")
    assert str(leaked) in refusal(root, memory)


def test_two_broken_files_alike_are_no_leak(root: Path, memory: Path) -> None:
    for split in ("train", "test"):
        (root / split / "cat" / "empty.jpg").write_bytes(b"")
    found = run(root, memory, "skip")
    assert len(found.bad) == 2
    assert found.leaks == ()


def test_a_second_check_reads_nothing_and_finds_the_same(
    root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_some(root)
    first = run(root, memory, "skip")
    seen = reads(monkeypatch)
    assert run(root, memory, "skip") == first
    assert seen == []


def test_only_a_changed_or_new_file_is_read_again(
    root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(root, memory)
    changed, new = root / "train" / "cat" / "1.jpg", root / "valid" / "dog" / "new.jpg"
    rewrite(changed, b"no image any more")
    paint(new, 77)
    seen = reads(monkeypatch)
    found = run(root, memory, "skip")
    assert sorted(seen) == sorted([changed, new])
    assert [finding.path for finding in found.bad] == [changed]
    assert found.fingerprint != first.fingerprint


def test_a_mended_file_is_read_again(root: Path, memory: Path) -> None:
    broken = root / "train" / "cat" / "1.jpg"
    good = broken.read_bytes()
    broken.write_bytes(b"")
    assert str(broken) in refusal(root, memory)
    rewrite(broken, good)
    assert run(root, memory).bad == ()


def test_a_failure_to_read_is_not_remembered(
    root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share that was away, rights that were mended: neither changes the file's size or time."""
    unlucky = root / "train" / "cat" / "1.jpg"
    really = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == unlucky:
            raise PermissionError(13, "Permission denied")
        return really(path)

    with monkeypatch.context() as away:
        away.setattr(Path, "read_bytes", read_bytes)
        assert f"{unlucky} cannot be read (Permission denied)" in refusal(root, memory)
    assert run(root, memory).bad == ()


def test_a_torn_memory_is_forgotten(root: Path, memory: Path) -> None:
    first = run(root, memory)
    for book in memory.iterdir():
        book.write_text(book.read_text()[:40])
    assert run(root, memory) == first


def test_the_memory_leaves_no_scratch_behind_and_nothing_in_the_images(
    root: Path, memory: Path
) -> None:
    before = sorted(root.rglob("*"))
    run(root, memory)
    assert [path.suffix for path in memory.iterdir()] == [".json"]
    assert sorted(root.rglob("*")) == before


def test_two_folders_share_a_memory(
    tmp_path: Path, root: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build(tmp_path / "other", train=3)
    run(root, memory)
    run(other, memory)
    seen = reads(monkeypatch)
    run(root, memory)
    run(other, memory)
    assert seen == []


def test_a_file_that_is_gone_since_the_scan_is_listed_or_left_out(root: Path, memory: Path) -> None:
    images = images_of(root)
    gone = images.splits["train"][0].path
    gone.unlink()
    with raises_code("BL200", names=gone):
        check(images, memory, on_bad_file="error")
    found = check(images, memory, on_bad_file="skip")
    assert [finding.path for finding in found.bad] == [gone]
    assert found.images.counts("train") == [3, 4]


def test_a_link_to_nothing_is_listed_or_left_out(root: Path, memory: Path) -> None:
    """What remains of images that were linked in from a disk that is not there today."""
    dangling = root / "train" / "cat" / "linked.jpg"
    dangling.symlink_to(root / "nowhere.jpg")
    with raises_code("BL200", names=dangling):
        run(root, memory)
    found = run(root, memory, "skip")
    assert [finding.path for finding in found.bad] == [dangling]


def test_images_may_be_links(root: Path, memory: Path, tmp_path: Path) -> None:
    (root / "train" / "cat" / "linked.jpg").symlink_to(paint(tmp_path / "store" / "x.jpg", 50))
    assert run(root, memory).images.counts("train") == [5, 4]


def test_a_class_left_without_training_images_stops_even_under_skip(
    root: Path, memory: Path
) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"")
    with raises_code("BL200", names=("dog", "4 broken files")) as caught:
        run(root, memory, "skip")
    message = str(caught.value)
    assert "is empty" in message
    assert "data.on_bad_file=skip" not in message  # which is set already


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_left_without_images_stops_even_under_skip(
    root: Path, memory: Path, split: str
) -> None:
    for path in (root / split).rglob("*.jpg"):
        path.write_bytes(b"")
    with raises_code("BL200", names=split):
        run(root, memory, "skip")


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_class_without_images_outside_training_is_a_warning(
    root: Path, memory: Path, split: str
) -> None:
    for path in (root / split / "dog").iterdir():
        path.unlink()
    assert run(root, memory).warnings == (f"the {split} split has no image of dog",)
    (root / split / "dog").rmdir()
    assert run(root, memory).warnings == (f"the {split} split has no image of dog",)


@pytest.mark.parametrize(("cats", "warned"), [(19, False), (20, True)])
def test_imbalance_is_a_warning_from_ten_to_one(
    tmp_path: Path, memory: Path, cats: int, warned: bool
) -> None:
    root = build(tmp_path / "photos", train=2)
    for i in range(2, cats):
        paint(root / "train" / "cat" / f"{i}.jpg", 1000 + i)
    warnings = run(root, memory).warnings
    assert bool(warnings) == warned
    if warned:
        assert "cat has 20 training images, dog 2" in warnings[0]
        assert "data.class_weights=balanced" in warnings[0]


def test_the_fingerprint_stays_when_images_move_or_get_a_new_time(
    root: Path, memory: Path, tmp_path: Path
) -> None:
    first = run(root, memory).fingerprint
    for path in root.rglob("*.jpg"):
        os.utime(path, (1_000_000, 1_000_000))
    assert run(root, memory).fingerprint == first
    shutil.copytree(root, tmp_path / "else" / "where")
    assert run(tmp_path / "else" / "where", tmp_path / "other memory").fingerprint == first
    assert len(first) == 32


def test_the_fingerprint_changes_with_content_class_and_split(root: Path, memory: Path) -> None:
    prints = [run(root, memory).fingerprint]
    rewrite(root / "train" / "cat" / "0.jpg", paint(root.parent / "new.jpg", 500).read_bytes())
    prints.append(run(root, memory).fingerprint)
    (root / "train" / "cat" / "3.jpg").rename(root / "train" / "dog" / "9.jpg")
    prints.append(run(root, memory).fingerprint)
    (root / "train" / "dog" / "9.jpg").rename(root / "valid" / "dog" / "9.jpg")
    prints.append(run(root, memory).fingerprint)
    (root / "valid" / "dog" / "9.jpg").unlink()
    prints.append(run(root, memory).fingerprint)
    for split in SPLITS:
        (root / split / "dog").rename(root / split / "puppy")
    prints.append(run(root, memory).fingerprint)
    assert len(set(prints)) == len(prints)


def test_the_fingerprint_of_what_skip_leaves_is_that_of_the_same_images_alone(
    root: Path, memory: Path
) -> None:
    alone = run(root, memory).fingerprint
    break_some(root)
    assert run(root, memory, "skip").fingerprint == alone


def test_progress_reaches_the_total_one_file_at_a_time(root: Path, memory: Path) -> None:
    steps: list[tuple[int, int]] = []
    check(
        images_of(root),
        memory,
        on_bad_file="error",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(done, 16) for done in range(1, 17)]


def test_a_check_silences_no_warning_of_the_rest_of_the_process(
    tmp_path: Path, memory: Path
) -> None:
    """Files are read in threads, and Python's warning filters belong to all of them."""
    root = build(tmp_path / "photos")
    for i in range(150):  # CMYK, since plain JPEGs do not go through Pillow
        noise = np.random.default_rng(2000 + i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).convert("CMYK").save(root / "train" / "cat" / f"cmyk{i}.jpg")
    with warnings.catch_warnings():
        before = list(warnings.filters)
        for attempt in range(5):
            check(images_of(root), memory / str(attempt), on_bad_file="error")
            assert list(warnings.filters) == before


def test_more_files_than_are_read_at_a_time_are_all_read(tmp_path: Path, memory: Path) -> None:
    root = build(tmp_path / "many", train=60)
    steps: list[tuple[int, int]] = []
    found = check(
        images_of(root), memory, on_bad_file="error", progress=lambda *step: steps.append(step)
    )
    assert steps[-1] == (128, 128)
    assert found.images.counts("train") == [60, 60]
