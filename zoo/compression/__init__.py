"""Compression of a trained dense network: low-rank factors in closed form, int8."""
