"""The wheel: one name in site-packages, with what a person edits inside."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.slow
def test_koala_is_the_only_name(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"koala"}


@pytest.mark.slow
def test_what_is_no_python_travels_too(wheel):
    files = (path for path in (ROOT / "koala").rglob("*.*") if path.suffix in (".toml", ".css", ".typed"))
    beside = {path.relative_to(ROOT).as_posix() for path in files}
    assert len(beside) >= 6
    assert beside <= set(wheel.namelist())


@pytest.mark.slow
def test_the_kit_travels_inside(wheel, tmp_path):
    """Unpacked as an installer would, the wheel's own koala copies its own files out."""
    wheel.extractall(tmp_path / "site-packages")
    command = [sys.executable, "-m", "koala", "kit", str(tmp_path / "kit")]
    environment = {"PYTHONPATH": str(tmp_path / "site-packages"), "PATH": "/usr/bin:/bin"}
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)
    for folder in ("launch", "shards", "slurm"):
        ours = sorted(path.name for path in (ROOT / folder).iterdir() if path.is_file())
        assert sorted(path.name for path in (tmp_path / "kit" / folder).iterdir()) == ours


@pytest.mark.slow
@pytest.mark.parametrize("page", ["koala/study/page", "koala/inference/gallery/page"])
def test_pages_travel_inside(wheel, page):
    """Templates, style, script and words, as they are in the checkout."""
    for path in (ROOT / page).iterdir():
        assert wheel.read(f"{page}/{path.name}") == path.read_bytes()
