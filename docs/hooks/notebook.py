"""Notebooks without Jupyter: run them, keep their output, show them as Markdown.

``python docs/hooks/notebook.py NOTEBOOK…`` runs notebooks and writes their output into the files.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path


def execute(notebook: dict) -> list[str]:
    """Runs the code cells in turn, in one namespace.

    Args:
        notebook: The parsed JSON of an .ipynb file, format 4.

    Returns:
        The text of each code cell: what it prints, then the value of its last line, as Jupyter shows it.
    """
    namespace: dict = {"__name__": "__main__"}
    return [_run("".join(cell["source"]), namespace) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run(source: str, namespace: dict) -> str:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), namespace) if last else None
        if value is not None:
            print(repr(value))
    return printed.getvalue()


def stored(notebook: dict) -> list[str]:
    """The text in the file of each code cell."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join("".join(output["text"]) for output in cell["outputs"]) for cell in cells]


def markdown(notebook: dict) -> str:
    """The notebook as a Markdown page, with its stored output."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [f"```text\n{''.join(output['text']).rstrip()}\n```" for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def main(paths: list[str]) -> None:
    """Runs notebooks and writes their output into the files."""
    for path in map(Path, paths):
        notebook = json.loads(path.read_text())
        texts = iter(execute(notebook))
        for number, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
            text = next(texts)
            stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
            cell |= {"execution_count": number + 1, "outputs": [stream] if text else []}
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
