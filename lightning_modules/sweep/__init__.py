"""Plan, run and follow sweeps on this machine, Slurm or Ray; importing this package does not import torch."""
