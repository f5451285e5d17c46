"""Deployment of a trained network: reads a run's checkpoint and exports the network."""
