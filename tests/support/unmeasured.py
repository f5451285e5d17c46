"""Runs whose speed nobody asks for."""

import pytest

from lightning_modules.cell import Cell


@pytest.fixture(scope="module")
def unmeasured():
    """Leaves out the measurement of inference, which takes longer than such a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cell, "_inference_speed", lambda *_: {})
        yield
