"""The wheel works alone: it holds every file of the package, and runs where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest
from helpers.tiny_models import save_tokenizer, tiny

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without this process's `PYTHONPATH`, which would show it the repository."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    run(sys.executable, "-m", "pip", "wheel", *options, str(ROOT), cwd=folder)
    (built,) = folder.glob("xlmech-*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a virtual environment with the wheel, and this environment's dependencies without its xlmech."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    scheme = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    # A path that a .pth file adds is searched, but its own .pth files, such as the one of an editable xlmech, are not read.
    Path(scheme["purelib"], "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    programs = Path(scheme["scripts"])
    options = ["--no-deps", "--no-index", "--quiet", str(wheel)]
    run(sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", *options, cwd=folder)
    return programs


def test_every_file_of_the_package_is_in_the_wheel(wheel: Path) -> None:
    files = [path for path in (ROOT / "xlmech").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    packed = {name for name in ZipFile(wheel).namelist() if name.startswith("xlmech/")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    for name in ("py.typed", "__init__.pyi", "data/languages/sw.toml", "report/page.html.j2", "adapters/records.jsonl"):
        assert f"xlmech/{name}" in packed


def test_the_wheels_licences_are_those_of_the_package_and_of_the_demos_adapters(wheel: Path) -> None:
    names = {Path(name).name for name in ZipFile(wheel).namelist() if "/licenses/" in name}
    assert names == {"LICENSE", "NOTICE", "GEMMA_TERMS.html"}


def test_the_command_runs_in_an_empty_folder(programs: Path, tmp_path: Path) -> None:
    where = run(programs / "python", "-c", "import xlmech; print(xlmech.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(programs.parent)
    assert "demo" in run(programs / "xlmech", "--help", cwd=tmp_path)
    listed = run(programs / "xlmech", "languages", cwd=tmp_path)
    assert all(code in listed for code in ("en", "fr", "sw", "zh"))
    assert list(tmp_path.iterdir()) == []


def test_a_saved_model_is_loaded_and_asked(programs: Path, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "model")
    save_tokenizer(tmp_path / "model")
    code = """
from xlmech import Record, build_probes, load_model, measure_leakage

people = [Record(id="1", subject="Ana Li", attribute="birth_country", value="FR")]
result = measure_leakage(load_model("model"), build_probes(people, ["en", "fr"]), progress=False)
print(len(result.probes))
"""
    assert int(run(programs / "python", "-c", code, cwd=tmp_path)) > 0
