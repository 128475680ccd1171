"""A run's folder: one process at a time, settings that stay, states, and a log without personal values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlmech.storage.run_folder import is_finished, is_unfinished, open_run_folder

HOLD = """
import sys, time
from pathlib import Path
from xlmech.storage.run_folder import open_run_folder
with open_run_folder(Path(sys.argv[1])) as run:
    run.parts.mkdir(exist_ok=True)
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_and_a_dead_one_is_followed(tmp_path: Path) -> None:
    folder, said = tmp_path / "run", list[str]()
    other = hold(folder)
    try:
        with (
            pytest.raises(RuntimeError, match=rf"run is worked in by process {other.pid} on .* \(since 2.*\); wait"),
            open_run_folder(folder),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    assert (folder / "lock.json").is_file() and is_unfinished(folder)
    with open_run_folder(folder, say=said.append) as run:
        run.finish()
    assert (
        len(said) == 1 and said[0].startswith(f"process {other.pid} on ") and "is gone; its finished shards" in said[0]
    )
    assert is_finished(folder) and not (folder / "lock.json").exists() and not run.parts.exists()
    events = [json.loads(line)["event"] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert events == ["opened", "opened", "finished"]


def test_changed_settings_are_refused_with_what_changed(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run") as run:
        run.parts.mkdir()
        run.record_settings({"seed": 0, "data.languages": ("en", "fr")})
        run.record_settings({"model": "m"})
        run.record_settings({"seed": 0, "data.languages": ["en", "fr"], "model": "m"})
    with (
        pytest.raises(ValueError, match=r"other settings \(seed: was 0, is 1; model: was 'm', is 'n'\); set them back"),
        open_run_folder(tmp_path / "run") as run,
    ):
        run.record_settings({"seed": 1, "model": "n"})
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["sessions"] == 2


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model"), open_run_folder(tmp_path / "run"):
        raise ValueError("no model")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="late"), open_run_folder(tmp_path / "run") as run:
        run.parts.mkdir()
        raise ValueError("late")
    assert is_unfinished(tmp_path / "run")


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with (
        pytest.raises(FileExistsError, match="mine exists and holds no run; give a new folder"),
        open_run_folder(tmp_path / "mine"),
    ):
        pass
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]
    with open_run_folder(tmp_path / "run") as run:
        run.parts.mkdir()
    (tmp_path / "run" / "run.json").write_text("{", encoding="utf-8")
    with (
        pytest.raises(ValueError, match=r"run.json is damaged \(.*\); move .* away and run again"),
        open_run_folder(tmp_path / "run"),
    ):
        pass
