"""Sphinx's settings for the documentation; ``make docs`` builds it.

Nothing is fetched, neither while building nor while reading: formulas become MathML,
fonts are the reader's own, and the search index is part of the pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

from sphinx.ext.autodoc.mock import MockFinder  # noqa: E402

from captum_ehr import __version__  # noqa: E402

# PyHealth takes half a minute to import, and nothing is read from it here. It stays
# away for the whole build: autodoc's own mocks do not cover the bases of classes.
sys.meta_path.insert(0, MockFinder(["pyhealth"]))

project = "captum_ehr"
author = "The captum_ehr authors"
copyright = author  # noqa: A001
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "commands",
    "docstrings",
    "mathml",
]
exclude_patterns = ["_extensions", "_static", "README.md"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
autoclass_content = "class"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
add_module_names = False
maximum_signature_line_length = 72
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
viewcode_line_numbers = True
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "captum_ehr"
html_static_path = ["_static"]
html_css_files = ["captum_ehr.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#b2182b",
        "color-brand-content": "#2166ac",
        "color-brand-visited": "#2166ac",
        "color-api-name": "#b2182b",
        "color-api-pre-name": "#7a4a4f",
    },
    "dark_css_variables": {
        "color-brand-primary": "#f4978e",
        "color-brand-content": "#8fc1e8",
        "color-brand-visited": "#8fc1e8",
        "color-api-name": "#f4978e",
        "color-api-pre-name": "#c9a5a2",
    },
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
