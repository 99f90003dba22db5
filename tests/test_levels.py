"""Imports point down the levels of the house (CONTRIBUTING.md); each module stands on one."""

import ast
from pathlib import Path

import koala

LEVELS = [
    {"errors", "files", "progress", "study.guard", "study.statistics", "study.templates", "study.trials"},
    {"config", "color", "metrics", "objectives", "study.store"},
    {"order", "intake", "model", "extractor", "kit", "sources", "study.folder", "study.languages", "study.power"},
    {"shards", "pictures", "study.answers", "study.build", "study.figures", "study.site"},
    {"audit", "writing", "checkpoint", "pipeline", "distributed", "study.admin", "study.analysis"},
    {"embeddings", "study.server", "study.words"},
    {"train", "evaluate", "photos", "study.report"},
    {"demo"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}
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
