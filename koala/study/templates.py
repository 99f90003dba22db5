"""Where the templates, the style, the script and the words of all pages lie, and what fills them in."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PAGE = Path(__file__).parent / "page"
"""The folder of them."""


def environment() -> Environment:
    """Templates in which every value is escaped, and none may be absent."""
    return Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
