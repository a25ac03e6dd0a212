"""Configuration of the documentation site: `make docs` builds it into `site/`."""

import importlib.metadata
import pathlib
import shutil
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_extensions")]

project = "diffusionflow"
author = "the diffusionflow authors"
copyright = author
release = importlib.metadata.version(project)
version = release

extensions = [
    "myst_nb",
    "reference",
    "config_tables",
    "messages",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_extensions", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
smartquotes_action = "D"  # dashes alone: "u" is a string

# Markdown
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks carry their outputs: they are rendered, never executed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # tables

# Reference
autodoc_default_options = dict(members=True)
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
nitpicky = True  # names in backticks that are links have to lead somewhere
nitpick_ignore_regex = [("py:(class|exc)", ".*")]  # types of JAX and NumPy
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def copy_notebooks() -> None:
    """Copies the notebooks, which are kept next to their scripts, into the sources."""
    target = DOCS / "tutorials"
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        copy = target / notebook.name
        if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, copy)


copy_notebooks()
