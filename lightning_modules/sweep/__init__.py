"""Sweeps: what runs (plan), where (local, slurm), and how it stands (jobs). Nothing here imports torch at once."""
