"""A training loop without overhead: what Lightning's does for each batch, and nothing that has no effect.

Lightning's loop inspects signatures, enters profilers that do nothing and calls every hook of every callback, written
or not: 0.4 ms a batch, more than many a small network takes. `use_lean_loop` gives a Trainer a loop that finds out once
an epoch what has an effect and then calls only that, in Lightning's order and with Lightning's counters: the same
weights, the same checkpoints. What it does not know it leaves to Lightning's own code.
"""

from lightning_modules.loop.epoch import LeanEpochLoop, use_lean_loop

__all__ = ["LeanEpochLoop", "use_lean_loop"]
