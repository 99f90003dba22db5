"""Templates that a person edits: launch/, shards/ and slurm/, in the package and in a checkout."""

import shutil
from pathlib import Path

from koala.core.errors import UserError

FOLDERS = ("launch", "shards", "slurm")


def template_path(name: str) -> Path:
    """A file or folder of them, such as "shards/demo.toml"."""
    package = Path(__file__).parents[1]
    installed = package / "kit" / name
    return installed if installed.exists() else package.parent / name


def copy_templates(target: Path) -> None:
    """Copy them out into a folder, with all that they hold but data.

    Raises:
        UserError: one of the folders is there already.
    """
    for folder in FOLDERS:
        if (target / folder).exists():
            raise UserError(f"{target / folder} exists; choose another folder, so that nothing is overwritten")
    for folder in FOLDERS:
        shutil.copytree(template_path(folder), target / folder, ignore=_data if folder == "shards" else None)


def _data(parent: str, names: list[str]) -> list[str]:
    """The folders in shards/: in a checkout they are data."""
    return [name for name in names if (Path(parent) / name).is_dir()]
