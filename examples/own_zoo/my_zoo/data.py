"""A data set without a download: is it a piece of the temple, or of the flower?"""

import numpy as np
import torch
from sklearn.datasets import load_sample_images

import lightning_modules
from lightning_modules.data import Images, Splits


@lightning_modules.dataset("photos", needs_root=False, num_classes=2, image_size=32, epochs=2)
def photos(options) -> Splits:
    """Crops of scikit-learn's photographs: of the left for training, then validation; of the right for the test."""
    generator = np.random.default_rng(0)
    height, width = options.image_size

    def crops(count: int, start: float, end: float) -> Images:
        images, labels = [], np.arange(count) % 2
        for label in labels:
            photo = load_sample_images().images[label]  # uint8, (H, W, 3)
            y = generator.integers(photo.shape[0] - height)
            x = generator.integers(int(start * photo.shape[1]), int(end * photo.shape[1]) - width)
            images.append(photo[y : y + height, x : x + width])
        return Images(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))

    return Splits(crops(256, 0, 0.6), crops(64, 0.6, 0.8), crops(64, 0.8, 1))
