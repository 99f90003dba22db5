"""Settings of the demo, and of copying the templates out."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from koala.config.fields import Dir, Strict


@dataclass(frozen=True)
class DemoSettings(Strict):
    """Write shards, train, evaluate and colour, on a few photographs, in minutes.

    It needs no network, no ImageNet and no GPU.
    """

    dir: Positional[Dir] = Path("demo")
    """Folder for everything that it makes."""


@dataclass(frozen=True)
class KitSettings(Strict):
    """Copy the files of launch/, shards/ and slurm/ out of the package, for editing."""

    dir: Positional[Dir]
    """Folder to copy them to."""
