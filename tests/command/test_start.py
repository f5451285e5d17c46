"""What an answer needs at most: no torch for help and mistakes, no Lightning for a table."""

import subprocess
import sys

import pytest
from conftest import ROOT

from lightning_modules.hardware.process import keep_memory

WATCH = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = {root!r}
try:
    run = runpy.run_module if sys.argv[0] == "zoo" else runpy.run_path
    run(sys.argv[0], run_name="__main__")
finally:
    print("imported:", *[m for m in ("torch", "lightning", "timm", "wandb") if m in sys.modules])
"""


@pytest.mark.parametrize(
    ("words", "imports"),
    [
        (["train.py", "--help"], ""),
        (["train.py", "model=resent"], ""),
        (["train.py", "modle=resnet"], ""),
        (["train.py", "--cfg", "job"], ""),
        (["zoo", "--help"], ""),
        (["zoo", "table", "--help"], ""),
        (["zoo", "report", "."], ""),
        (["zoo", "table", "--models", "mobilenet:v3_small", "--convs", "native"], "torch timm"),
    ],
    ids=" ".join,
)
def test_an_answer_imports_only_what_it_needs(words, imports, clean_env, tmp_path):
    words = [str(ROOT / word) if word == "train.py" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-c", WATCH.format(root=str(ROOT)), *words],
        cwd=tmp_path,
        env=clean_env,
        capture_output=True,
        text=True,
    )
    found = done.stdout.splitlines()[-1].partition("imported:")[2].split()
    # timm imports wandb where it is installed.
    assert set(found) - ({"wandb"} if "timm" in found else set()) == set(imports.split()), done.stderr


@pytest.mark.skipif(not keep_memory(), reason="not glibc")
def test_freed_memory_is_kept_for_the_next_tensor():
    code = """
import torch
from lightning_modules.hardware.process import keep_memory
def pages():
    return int(open("/proc/self/statm").read().split()[0])
def kept():
    tensor = torch.ones(1 << 24)
    with_it = pages()
    del tensor
    return pages() >= with_it
print(kept(), keep_memory(), kept())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "True"], done.stderr
