"""The documentation is true: its commands run, its pages hold together, every message of koala's is explained."""

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

import koala
from koala import cli
from koala.training import doctor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.append(str(DOCS))
import notebook  # noqa: E402  (in docs/, beside what it runs)

BASE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
ANY = "…"  # names and numbers in a message
LETTERS = 7  # fewer of a message's own, such as "… is …", would explain any other

# ---------------------------------------------------------------- messages


def templates(node: ast.expr) -> list[str]:
    """What a string may be, with `ANY` for what is filled in."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr():
            return ["".join(templates(part)[0] for part in node.values)]
        case ast.BinOp(op=ast.Add()):
            return [first + second for first in templates(node.left) for second in templates(node.right)]
        case ast.IfExp():
            return templates(node.body) + templates(node.orelse)
    return [ANY]


def calls(*names: str) -> list[tuple[str, ast.Call]]:
    """All calls of functions of these names in the package, and where each stands."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in sorted(Path(koala.__file__).parent.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names
    ]


def rows() -> dict[str, re.Pattern[str]]:
    """Messages that the page explains: the first column of its tables."""
    text = (DOCS / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `(.+?)` \|", text, flags=re.MULTILINE)
    return {message: re.compile(r"[^;\n]*".join(map(re.escape, message.strip(ANY).split(ANY)))) for message in messages}


def says_much(message: str) -> bool:
    """Whether a message has words of its own."""
    return len(re.findall(r"[^\W\d_]", message)) >= LETTERS


def test_every_error_is_explained():
    explained = [pattern for message, pattern in rows().items() if says_much(message)]
    missing = [
        f"{place}: {text}"
        for place, call in calls("UserError", "UnreadableImageError")
        for text in templates(call.args[0])
        if says_much(text) and not any(pattern.search(text) for pattern in explained)
    ]
    assert not missing, "docs/troubleshooting.md lacks\n" + "\n".join(missing)


def test_every_explanation_is_of_something_that_koala_says():
    said = "\n".join(
        text
        for path in Path(koala.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp | ast.IfExp)
        for text in templates(node)
    )
    assert not [message for message, pattern in rows().items() if not pattern.search(said)]


def test_every_extra_is_listed():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(declared)


def test_every_line_of_the_doctor_is_explained():
    page = (DOCS / "troubleshooting.md").read_text().partition("## What koala doctor says")[2]
    table = page.partition("Any line may also say")[0]
    assert re.findall(r"^\| `(.+?)` \|", table, flags=re.MULTILINE) == [check.name for check in doctor.CHECKS]


# ---------------------------------------------------------------- what pages let one do

PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/tutorials/own-photos.md",
    "docs/tutorials/fine-tune.md",
    "docs/tutorials/study.md",
)
BLOCK = re.compile(r"^<!-- run(?:: (\S+))? -->\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """The folder `photos` and the photo `grandmother.jpg` that pages speak of, in a folder to work in."""
    import numpy as np
    from PIL import Image
    from skimage import data
    from sklearn.datasets import load_sample_images

    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pictures = [*(getattr(data, name)() for name in PHOTOS), *load_sample_images().images]
    for number, picture in enumerate([*pictures, *(picture[:, ::-1] for picture in pictures)]):
        Image.fromarray(np.ascontiguousarray(picture)).resize((120, 80)).save(tmp_path / f"photos/{number:02}.jpg")
    Image.fromarray(pictures[1]).convert("L").resize((120, 80)).save(tmp_path / "grandmother.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("photographs")
def test_what_a_page_tells_to_do_can_be_done(page):
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    names: dict[str, object] = {}
    for file, language, text in blocks:
        if file:
            Path(file).write_text(text)
        elif language == "python":
            exec(text, names)
        else:
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "))
                assert line.startswith("$ koala "), line
                assert cli.main(words[1:]) == 0, line


@pytest.mark.slow
def test_the_notebook_still_says_what_it_shows(tmp_path):
    def texts(notebook) -> list[str]:
        return [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]

    shown = texts(nbformat.read(notebook.NOTEBOOK, as_version=4))
    assert shown
    assert texts(notebook.executed(tmp_path)) == shown


# ---------------------------------------------------------------- the site


class Links(HTMLParser):
    """Addresses that a page links to or loads, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.anchors.add(named.get("id", ""))
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        loads = named.get("src") if tag in ("script", "img", "iframe") else named.get("href") if tag == "link" else None
        if loads and named.get("rel") != "canonical":
            self.loads.append(loads)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[Path, Links]:
    """The pages of the documentation, built as `make docs` builds them."""
    out = tmp_path_factory.mktemp("site")
    command = re.search(r"^docs: .*\n\t\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    words = shlex.split(command)
    build = [sys.executable, "-m", "sphinx", *words[1:-1], "-d", str(out / "doctrees"), str(out / "html")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: Links(path) for path in (out / "html").rglob("*.html")}


@pytest.mark.slow
def test_links_inside_the_documentation_lead_somewhere(site):
    broken = []
    for page, found in site.items():
        for link in found.links:
            scheme, host, path, _, anchor = urlsplit(link)
            target = (page.parent / unquote(path)).resolve() if path else page
            if not scheme and not host and not (target.exists() and _has(site, target, unquote(anchor))):
                broken.append(f"{page.name}: {link}")
    assert not broken


def _has(site, target: Path, anchor: str) -> bool:
    return target not in site or anchor in site[target].anchors


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site):
    assert not {link for found in site.values() for link in found.loads if urlsplit(link).netloc}
    styles = (path.read_text() for folder in {page.parent for page in site} for path in folder.glob("_static/**/*.css"))
    assert not [style for style in styles if re.search(r"url\([\"']?(https?:)?//", style)]


def test_links_into_the_repository_lead_somewhere():
    """The address of the repository stands in pyproject.toml; pages that are read elsewhere repeat it."""
    texts = [path.read_text() for path in (ROOT / "README.md", *DOCS.rglob("*.md"), *ROOT.glob("*/README.md"))]
    paths = {path for text in texts for path in re.findall(rf"{BASE}/(?:blob|raw)/main/([\w./-]+)", text)}
    paths |= {path for text in texts for path in re.findall(r"\]\(repo:([\w./-]+)\)", text)}
    assert "docs/images/built-in-model.jpg" in paths
    assert not [path for path in paths if not (ROOT / path).exists()]


# ---------------------------------------------------------------- what is promised of the README


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120
