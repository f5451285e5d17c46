"""mkdocs hook: adds the generated pages, and keeps links to files outside docs/ from breaking the site."""

from __future__ import annotations

import json
import re
from pathlib import Path

import command_help
import config_keys
import notebook
import public_api
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)#\s]+)(?:#[^)]*)?\)")


def on_files(files, config):
    """Adds the pages that are made of code and configuration."""
    pages = {
        "reference/configuration.md": config_keys.page(),
        "reference/commands.md": command_help.page(),
        "reference/zoo.md": public_api.page("zoo"),
        "reference/lightning_modules.md": public_api.page("lightning_modules"),
    }
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        # Links to docs/ in the repository become links inside the site.
        text = notebook.markdown(json.loads(path.read_text())).replace("](../docs/", "](../")
        pages[f"examples/{path.stem}.md"] = text
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns a link to a file of the repository that is no page into the name of the file."""
    docs = Path(config["docs_dir"])

    def plain(match: re.Match) -> str:
        target = (docs / page.file.src_uri).parent.joinpath(match["target"]).resolve()
        outside = not target.is_relative_to(docs) and target.exists()
        return f"`{target.relative_to(ROOT)}`" if outside else match[0]

    return LINK.sub(plain, markdown)
