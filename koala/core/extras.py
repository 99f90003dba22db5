"""What an installation may lack: the packages of koala's extras, and NVIDIA DALI.

They are looked for and not imported, so that a command can name what it lacks before torch is imported.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from koala.core.errors import UserError

DISTRIBUTION = "koalarization"  # on PyPI koala is another project
EXTRAS = {  # the modules that each brings and its users cannot do without
    "demo": ("mvtbdata", "sklearn"),
    "gallery": ("jinja2", "python_multipart", "starlette", "uvicorn"),
    "onnx": ("onnx", "onnxscript"),
    "remote": ("obstore",),
    "study": ("jinja2", "markdown_it", "starlette", "statsmodels", "uvicorn"),
}
_CHECKOUT = Path(__file__).parents[2]  # or site-packages


def pip_line(extra: str) -> str:
    """The command that adds an extra to this koala: to a checkout, or to an installed package."""
    if not (_CHECKOUT / "pyproject.toml").exists():
        return f'pip install "{DISTRIBUTION}[{extra}]"'
    return f'pip install -e "{"." if Path.cwd() == _CHECKOUT else _CHECKOUT}[{extra}]"'


def require(user: str, extra: str) -> None:
    """Refuse to begin without the packages of an extra.

    Args:
        user: what needs them, such as "koala gallery".
        extra: its name.

    Raises:
        UserError: some are not installed.
    """
    absent = [module for module in EXTRAS[extra] if not _is_installed(module)]
    if absent:
        raise UserError(f"{user} needs {', '.join(absent)}; {pip_line(extra)}")


def require_dali(user: str) -> None:
    """Refuse to begin without NVIDIA DALI.

    Args:
        user: what needs it, such as "koala train".

    Raises:
        UserError: it is not installed, as nowhere but on Linux it can be.
    """
    if _is_installed("nvidia.dali"):
        return
    if sys.platform == "linux":
        raise UserError(f"{user} needs NVIDIA DALI; pip install nvidia-dali-cuda120, or nvidia-dali-cuda130")
    raise UserError(
        f"{user} needs NVIDIA DALI, which exists for Linux only; run it on Linux (colorize, gallery, export and study "
        "run here, too)"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that would hold it is absent
        return False
