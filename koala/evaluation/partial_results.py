"""Results of long work, a file for each part of it, so that what is done need not be done again.

The parts belong to a key, which stands for all that they depend on. Several processes may write parts into one folder;
which process wrote which does not matter.
"""

import io
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from koala.core.atomic_io import write_atomic


class PartialResults:
    """A folder of parts.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, key: str) -> None:
        """Keep the parts that belong to this key, and remove those that do not; for one process, before all else."""
        path = self._folder / "key"
        if not path.exists() or path.read_text() != key:
            self.remove()
            self._folder.mkdir(parents=True)
            write_atomic(path, key.encode())

    def __contains__(self, name: str) -> bool:
        return zipfile.is_zipfile(self._path(name))  # one that a power cut left short has no end

    def write(self, name: str, arrays: Mapping[str, NDArray]) -> None:
        """Keep a part, whole or not at all."""
        buffer = io.BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # its own flag is no array
        write_atomic(self._path(name), buffer.getvalue(), durable=False)

    def read(self, names: Iterable[str]) -> Iterator[dict[str, NDArray]]:
        """The parts of these names, one after the other."""
        for name in names:
            with np.load(self._path(name)) as arrays:
                yield dict(arrays)

    def remove(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"
