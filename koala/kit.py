"""The files that a person edits: launch/, shards/ and slurm/, in the package and in a checkout."""

import shutil
from pathlib import Path

from koala.config import Kit
from koala.errors import UserError

FOLDERS = ("launch", "shards", "slurm")


def path(name: str) -> Path:
    """A file or folder of the kit, such as "shards/demo.toml"."""
    package = Path(__file__).parent
    installed = package / "kit" / name
    return installed if installed.exists() else package.parent / name


def copy(settings: Kit) -> int:
    """`koala kit DIR`: copy the kit out.

    Raises:
        UserError: one of the folders is there already.
    """
    for folder in FOLDERS:
        if (settings.dir / folder).exists():
            raise UserError(f"{settings.dir / folder} exists; choose another folder, so that nothing is overwritten")
    for folder in FOLDERS:
        shutil.copytree(path(folder), settings.dir / folder, ignore=_folders)
    print(f"{settings.dir}: {', '.join(FOLDERS)}")
    return 0


def _folders(parent: str, names: list[str]) -> list[str]:
    """What is no file: in a checkout shards/ may hold data."""
    return [name for name in names if (Path(parent) / name).is_dir()]
