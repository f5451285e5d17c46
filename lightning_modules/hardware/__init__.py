"""Devices, processes, execution plans, memory, and the signals that stop a run."""
