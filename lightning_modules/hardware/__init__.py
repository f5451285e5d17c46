"""Hardware: devices, processes, execution plans, memory, and the signals that stop a run."""
