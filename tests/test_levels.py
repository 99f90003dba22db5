"""Imports point down the levels of the house (CONTRIBUTING.md); each module stands on one."""

import ast
from pathlib import Path

import koala

LEVELS = [
    {"errors", "files", "progress", "bootstrap", "color", "metadata", "guided"},
    {"config", "bins", "health", "metrics", "parts", "web", "layers", "hub", "tone"},
    {"order", "intake", "world", "model", "extractor", "kit", "schedule", "sources", "page", "aging"},
    {"shards", "scan", "pictures", "estimate", "features", "objectives", "perceptual"},
    {"audit", "writing", "checkpoint", "pipeline", "distributed", "protocol"},
    {"embeddings", "predictions", "prior", "state", "telemetry"},
    {"train", "photos", "scoring", "export"},
    {"album", "report", "results", "gallery.server"},
    {"evaluate"},
    {"demo", "compare", "checks"},
    {"doctor", "ablate"},
    {"cli"},
    {"__main__"},
]
STUDY = [  # koala.study's, on the same levels
    {"statistics", "trials"},
    {"store"},
    {"folder", "guard", "languages", "power"},
    {"answers", "build", "figures", "site"},
    {"admin", "analysis"},
    {"server", "words"},
    {"report"},
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
LEVEL |= {f"study.{module}": level for level, modules in enumerate(STUDY) for module in modules}
ROOT = Path(koala.__file__).parent


def imports(path: Path) -> set[str]:
    """What is imported from koala: `from koala.study import store` as well as `from koala.study.store import Store`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "koala":
            names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            found |= {name.removeprefix("koala.") for name in names} & LEVEL.keys()
    return found


def test_imports_point_down():
    paths = [path for path in ROOT.rglob("*.py") if path.stem != "__init__"]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    assert modules.keys() == LEVEL.keys(), "every module has a level in this test"
    for module, path in modules.items():
        for imported in imports(path):
            assert LEVEL[imported] < LEVEL[module], f"koala.{module} must not import koala.{imported}: not below it"
