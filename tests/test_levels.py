"""Imports point down the levels of the house (CONTRIBUTING.md); each module stands on one."""

import ast
from pathlib import Path

import koala

LEVELS = [
    {"errors", "files", "progress", "bootstrap"},
    {"config", "color", "metrics", "objectives", "parts"},
    {"order", "intake", "world", "model", "extractor", "kit", "schedule", "sources", "page"},
    {"shards", "pictures", "estimate", "features"},
    {"audit", "writing", "checkpoint", "pipeline", "distributed", "protocol"},
    {"embeddings", "predictions", "state", "telemetry"},
    {"train", "photos", "scoring"},
    {"report", "results"},
    {"evaluate"},
    {"demo", "compare", "checks"},
    {"doctor", "ablate"},
    {"cli"},
    {"__main__"},
]
LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "koala":
            found |= {alias.name for alias in node.names} & LEVEL.keys()
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("koala."):
            found.add(node.module.split(".")[1])
    return found


def test_imports_point_down():
    modules = {path.stem: path for path in Path(koala.__file__).parent.glob("*.py") if path.stem != "__init__"}
    assert modules.keys() == LEVEL.keys(), "every module has a level in this test"
    for module, path in modules.items():
        for imported in imports(path):
            assert LEVEL[imported] < LEVEL[module], f"koala.{module} must not import koala.{imported}: not below it"
