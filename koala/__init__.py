"""koala: colours for photographs, and training of the Deep Koalarization network that finds them.

`colorize`, `load_model`, `PretrainedColorizer`, `UserError`, `rgb_to_lab` and `lab_to_rgb` are the names for programs;
they are imported when they are first asked for, so that `import koala` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the types of what __getattr__ finds
    from koala.core.errors import UserError as UserError
    from koala.imaging.color import lab_to_rgb as lab_to_rgb
    from koala.imaging.color import rgb_to_lab as rgb_to_lab
    from koala.inference.colorize import colorize as colorize
    from koala.models.pretrained import PretrainedColorizer as PretrainedColorizer
    from koala.models.pretrained import load_model as load_model

from koala.core.version import __version__ as __version__

_PUBLIC = {
    "load_model": "koala.models.pretrained",
    "colorize": "koala.inference.colorize",
    "UserError": "koala.core.errors",
    "PretrainedColorizer": "koala.models.pretrained",
    "rgb_to_lab": "koala.imaging.color",
    "lab_to_rgb": "koala.imaging.color",
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604  (names of _PUBLIC are strings)


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    from importlib import import_module

    if name not in _PUBLIC:
        raise AttributeError(f"module 'koala' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
