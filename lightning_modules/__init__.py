"""Training with Lightning: callbacks for any LightningModule, and the run of one cell. Imports zoo, never Hydra.

``__init__.pyi`` lists the public names; each is imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
