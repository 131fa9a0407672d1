"""How Sphinx builds the pages of this folder into a site: `make docs`."""

import tomllib
from pathlib import Path

project = "reconciler"
author = copyright = "the reconciler contributors"
version = release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"reconciler {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
suppress_warnings = ["toc.not_included"]  # decisions/README.md lists the decisions
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
