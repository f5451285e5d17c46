"""Hydra plugins: search path, launchers and sweepers; every Hydra application imports them, so they import little."""
