"""Settings of the documentation: `make docs` builds it, without network, and a warning is an error."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # this checkout is what is documented

import generated_pages  # noqa: E402

from koala.core.version import __version__  # noqa: E402

PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]

project = "koala"
author = copyright = "The koala developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design"]
exclude_patterns = ["**/*.ipynb"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 4
myst_url_schemes = {"http": None, "https": None, "mailto": None, "repo": f"{SOURCE}/blob/main/{{{{path}}}}"}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
maximum_signature_line_length = 90
smartquotes = False  # two hyphens are an option
default_role = "code"  # docstrings put code between single backticks
suppress_warnings = ["ref.python"]  # a type such as bytes is also an attribute of some classes
python_use_unqualified_type_names = True

copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = f"koala {release}"
html_static_path = ["_static"]
html_css_files = ["koala.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"source_repository": SOURCE, "source_branch": "main", "source_directory": "docs/"}


def setup(app: Sphinx) -> None:
    """Write the pages that come from the code, before Sphinx looks for pages."""
    generated_pages.write(HERE / "reference")
    app.connect("autodoc-process-docstring", adapt, priority=1)


def adapt(  # noqa: PLR0917  (as Sphinx calls it)
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Tell reStructuredText that what is indented in a module is a listing, and Napoleon that results name no type."""
    text = "\n".join(lines)
    if what == "module":
        text = re.sub(r"(?<!::)\n\n(?=    )", "\n\n::\n\n", text)
    lines[:] = re.sub(r"^((?:Returns|Yields):\n +)", r"\1: ", text, flags=re.MULTILINE).splitlines()
