"""Checkpoints: the best one, the last one, and how a stopped run resumes."""
