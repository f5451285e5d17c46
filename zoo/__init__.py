"""convzoo's networks: build, rewrite, count, time, load. Needs torch and timm; never Lightning, Hydra or W&B.

``__init__.pyi`` lists the public names. Each is imported on first use, so that ``import zoo`` is fast.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
