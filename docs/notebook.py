"""Runs the quickstart's notebook; `python docs/notebook.py` stores what its cells put out."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs: no warnings, and of each picture one format.

    Args:
        folder: in which it runs.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # where the command koala is
    here = {"PATH": path, "PYTHONPATH": str(NOTEBOOK.parents[1])}
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | here)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        outputs = [output for output in cell.get("outputs", []) if output.get("name") != "stderr"]
        for output in outputs:
            if "image/jpeg" in output.get("data", {}):
                output.data.pop("image/png", None)
        if cell.cell_type == "code":
            cell.outputs = outputs
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        nbformat.write(executed(Path(work)), NOTEBOOK)
