"""New folders: whole under their name, or not there, whatever happens meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from xlmech.storage.atomic import new_file, new_folder


def _write(target: Path, **how: bool) -> None:
    with new_folder(target, **how) as folder:
        assert folder != target and folder.parent == target.parent
        (folder / "ours").write_text("x")
        (folder / "deep").mkdir()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_gets_its_name_when_the_block_ends(exists: bool, shared: bool, tmp_path: Path) -> None:
    target = tmp_path / "far" / "out"
    if exists:
        target.mkdir(parents=True)
    _write(target, shared=shared)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "far", target, target / "deep", target / "ours"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), OSError("said in full already")])
@pytest.mark.parametrize("exists", [False, True])
def test_what_the_block_says_passes_through_and_nothing_is_left(
    exists: bool, error: BaseException, tmp_path: Path
) -> None:
    if exists:
        (tmp_path / "out").mkdir()
    with pytest.raises(type(error)) as caught, new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise error
    assert caught.value is error
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"] * exists


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_a_full_disk_is_said_with_the_remedy(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"out: could not be written \(.*No space left.*nothing of it is left; pray$"),
        new_folder(tmp_path / "out", remedy="pray"),
    ):
        raise error
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"out: could not be written \(.*; make room, or give another folder$"):
        _write(tmp_path / "file" / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_room_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 15e8})())
    with (
        pytest.raises(OSError, match=f"^{tmp_path}: 1.5 GB free, 2.5 GB needed for out; make room"),
        new_folder(tmp_path / "out", needs=25 * 10**8),
    ):
        raise AssertionError("the block must not be entered")
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "out")
    with pytest.raises(FileExistsError, match="out exists and is not empty; save to a new folder"):
        _write(tmp_path / "out")
    with pytest.raises(FileExistsError, match="ours exists and is not a folder; save to a new folder"):
        _write(tmp_path / "out" / "ours")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_who_is_first_wins(tmp_path: Path) -> None:
    for name, shared in (("mine", False), ("ours", True)):
        target = tmp_path / name

        def both(target: Path = target, shared: bool = shared) -> None:
            with new_folder(target, shared=shared) as folder:
                (folder / "second").write_text("x")
                target.mkdir()
                (target / "first").write_text("x")

        if shared:
            both()
        else:
            with pytest.raises(FileExistsError, match="mine exists and is not empty; save to a new folder"):
                both()
        assert list(target.iterdir()) == [target / "first"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "mine", tmp_path / "ours"]


def test_a_file_is_replaced_when_the_block_ends_and_kept_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("old", "new"):
        with new_file(path) as partial:
            partial.write_text(text)
            assert partial.parent == tmp_path and partial != path
    for error in (KeyboardInterrupt(), OSError("said in full already")):
        with pytest.raises(type(error)) as caught, new_file(path) as partial:
            partial.write_text("half")
            raise error
        assert caught.value is error
    with (
        pytest.raises(OSError, match=r"a\.json: could not be written \(No space left on device\), nothing .*; pray$"),
        new_file(path, remedy="pray") as partial,
    ):
        partial.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not be written \(it is a folder\)"), new_file(tmp_path):
        raise AssertionError("the block must not be entered")
    with pytest.raises(OSError, match="No such file"), new_file(tmp_path / "missing" / "a") as partial:
        partial.write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_when_the_block_ends_and_kept_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "results"
    _write(target)
    with pytest.raises(RuntimeError, match="no"), new_folder(target, replace=True) as folder:
        (folder / "half").write_text("x")
        raise RuntimeError("no")
    assert (target / "ours").is_file()
    with new_folder(target, replace=True) as folder:
        (folder / "next").write_text("x")
    assert list(tmp_path.rglob("*")) == [target, target / "next"]
