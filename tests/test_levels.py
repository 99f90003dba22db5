"""Imports point down the levels of the packages (docs: "Architecture"), and no modules import each other in circles."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import koala

LEVELS = [
    {"core"},
    {"config"},
    {"imaging"},
    {"models"},
    {"data", "inference"},
    {"evaluation"},
    {"training"},
    {"demo", "cli"},
    {"__main__"},
]
STUDY = {"core", "config", "imaging"}  # what the study stands on, so that it runs without torch; and these of data
SOURCES = {"data.sources", "data.places", "data.labels"}
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
ROOT = Path(koala.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.stem != "__init__"
}


def imports(path: Path) -> set[str]:
    """Modules of koala that a file imports, in functions too: `from koala.data import shards` is `data.shards`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "koala":
            names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            found |= {name.removeprefix("koala.") for name in names} & MODULES.keys()
    return found


def test_packages_import_what_lies_below_them():
    for module, path in MODULES.items():
        package = module.partition(".")[0]
        for imported in imports(path):
            below = imported.partition(".")[0]
            if below == package:
                continue
            if package == "study":
                assert below in STUDY or imported in SOURCES, f"{module} must not import {imported}"
            else:
                assert LEVEL[below] < LEVEL[package], f"koala.{module} must not import koala.{imported}: not below it"


def test_modules_import_each_other_in_no_circle():
    try:
        TopologicalSorter({module: imports(path) for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        raise AssertionError(f"a circle of imports: {' -> '.join(error.args[1])}") from None


def test_packages_hold_nothing_in_their_init_but_a_sentence():
    for path in ROOT.glob("*/**/__init__.py"):
        (only,) = ast.parse(path.read_text()).body
        assert isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant), f"{path} says what belongs there"
