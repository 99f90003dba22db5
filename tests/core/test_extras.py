"""What an installation lacks is said in a sentence, before torch is imported, with the line that installs it."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from koala import cli
from koala.config.data import DataSettings
from koala.core import extras
from koala.core.errors import UserError
from koala.data import dali_pipeline

ROOT = Path(__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_an_extra_brings_what_its_users_look_for(extra):
    declared = {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in DECLARED[extra]}
    distributions = packages_distributions()
    for module in extras.EXTRAS[extra]:
        assert {normalized(name) for name in distributions[module]} <= declared


def test_the_line_fits_the_installation(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert extras.pip_line("photos") == 'pip install -e ".[photos]"'
    monkeypatch.chdir(tmp_path)
    assert extras.pip_line("photos") == f'pip install -e "{ROOT}[photos]"'
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path)  # site-packages
    assert extras.pip_line("photos") == 'pip install "koalarization[photos]"'


def test_nothing_tells_to_install_a_stranger():
    """`pip install "koala[photos]"` installs what is called koala on PyPI."""
    suffixes = (".py", ".md", ".toml", ".sh", ".sbatch", ".env")
    folders = ("koala", "docs", "launch", "shards", "slurm", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    for path in [*paths, *ROOT.glob("*.md"), ROOT / "Dockerfile", ROOT / "Makefile"]:
        assert not re.search(r"\bkoala\[[a-z]|pip install \"?koala\b", path.read_text()), path


@pytest.fixture
def nothing_more_imported(monkeypatch):
    """A command ends before its module, which imports torch, is imported."""
    import_module = cli.import_module

    def only_settings(name: str):
        assert name.startswith("koala.config."), f"{name} was imported"
        return import_module(name)

    monkeypatch.setattr(cli, "import_module", only_settings)


@pytest.mark.parametrize(
    ("words", "module", "message"),
    [
        (["gallery"], "python_multipart", "koala gallery needs python_multipart; pip install"),
        (["study", "power"], "statsmodels", "koala study power needs statsmodels; pip install"),
        (["demo"], "mvtbdata", "koala demo needs mvtbdata; pip install"),
        (["export", "run", "--onnx", "koala.onnx"], "onnxscript", "koala export --onnx needs onnxscript; pip install"),
        (["train"], "nvidia", "koala train needs NVIDIA DALI; pip install nvidia-dali-cuda120"),
        (["ablate", "--out", "runs"], "nvidia", "koala ablate needs NVIDIA DALI; pip install nvidia-dali-cuda120"),
        (["demo"], "nvidia", "koala demo needs NVIDIA DALI; pip install nvidia-dali-cuda120"),
        (["evaluate", "run", "--shards", "shards"], "nvidia", "koala evaluate needs NVIDIA DALI; pip install"),
        (["shards", "embed", "shards"], "nvidia", "koala shards embed needs NVIDIA DALI; pip install"),
    ],
)
@pytest.mark.usefixtures("nothing_more_imported")
def test_what_a_command_lacks_is_named_at_once(words, module, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)  # as import has it for what is not there
    if module == "nvidia":
        monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_elsewhere_than_on_linux_dali_is_not_to_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UserError, match=r"^koala train needs NVIDIA DALI, which exists for Linux only; run it on"):
        extras.require_dali("koala train")


def test_a_program_that_decodes_without_dali_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia", None)
    monkeypatch.delitem(sys.modules, "nvidia.dali", raising=False)
    with pytest.raises(UserError, match=r"^decoding needs NVIDIA DALI; pip install"):
        dali_pipeline.build_graph(iter([]), DataSettings(), 1, "cpu")
