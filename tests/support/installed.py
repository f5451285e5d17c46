"""convzoo as others have it: installed in an environment of its own."""

import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

from conftest import ROOT


def install(folder: Path, editable: bool = False) -> Path:
    """Installs convzoo's wheel, or a copy of this clone, in a new environment; torch and the like are borrowed.

    Args:
        folder: An empty one; the environment is its ``env``.
        editable: Install the copy itself instead of a wheel that is built from it.

    Returns:
        The environment's Python.
    """
    env, source, wheels = folder / "env", folder / "source", folder / "dist"
    venv.create(env)
    python = env / "bin" / "python"
    unneeded = shutil.ignore_patterns(".venv", "runs", ".git", "dist", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, symlinks=True, ignore=unneeded)
    if editable:
        what = ["--no-build-isolation", "-e", str(source)]
    else:
        # An isolated build would fetch hatchling: the network is not what is tested here.
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(wheels), str(source)]
        subprocess.run(build, check=True, capture_output=True)
        what = [str(*wheels.glob("*.whl"))]
        shutil.rmtree(source)
    (site,) = (env / "lib").glob("python*/site-packages")
    # A file of paths is read in a place that Python itself looks into only: convzoo's editable install stays behind.
    (site / "borrowed.pth").write_text(f"{Path(find_spec('torch').origin).parents[1]}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--ignore-installed", *what], check=True, capture_output=True)
    return python
