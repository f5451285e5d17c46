"""Renders the report as one self-contained HTML page (styles, scripts and data inline), which works offline.

Untrusted names in the data are harmless: the page sets all text by ``textContent``, the data are JSON with every ``<``
escaped, and the content security policy runs only the page's own script and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Any

SCRIPTS = ("base.js", "chart.js", "filters.js", "scatter.js", "table.js", "effects.js", "curves.js", "main.js")


def render(document: dict[str, Any]) -> str:
    """Renders the page of a document from `zoo.report.document`."""
    here = files(__name__)
    style = (here / "page.css").read_text("utf-8")
    script = "\n".join((here / name).read_text("utf-8") for name in SCRIPTS)
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; base-uri 'none'"
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {"policy": policy, "style": style, "script": script, "data": data}
    # In a single pass, so that text in the data is never taken for a placeholder.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], (here / "page.html").read_text("utf-8"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
