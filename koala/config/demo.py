"""Settings of the demo, and of copying the templates out."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from koala.config.fields import Strict


@dataclass(frozen=True)
class DemoSettings(Strict):
    """The main job from photos to colours, in a few minutes, without network, ImageNet or GPU."""

    dir: Positional[Path] = Path("demo")
    """Folder for all that it makes."""


@dataclass(frozen=True)
class KitSettings(Strict):
    """Copy the launch, shards and slurm files out of the package, for editing."""

    dir: Positional[Path]
    """Folder to copy them to."""
