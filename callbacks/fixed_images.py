"""The same few validation images during the whole run, one by one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning.pytorch import Trainer

Batch = dict[str, Any]


class FixedImages:
    """Evenly spaced images of the validation split, as batches of one: sizes may differ.

    Which ones depends on the split's length alone: all stages, resumed runs and other codecs show the same.
    An unreadable image gives its place to the next readable one.

    Args:
        num_images: how many, as far as the split has them.

    Raises:
        ValueError: ``num_images`` below 1.
    """

    def __init__(self, num_images: int):
        if num_images < 1:
            raise ValueError(f"num_images={num_images} must be at least 1")
        self.num_images = num_images
        self._batches: list[Batch] | None = None

    def load(self, trainer: Trainer) -> list[Batch]:
        """The images on the module's device, exactly as ``validation_step`` gets them.

        Args:
            trainer: during a validation.

        Returns:
            Batches of one image each; ``image`` float (1, 3, H, W) in [0, 1].
        """
        if self._batches is None:
            self._batches = self._read(trainer)
        # The copies keep Lightning's transfer hooks from changing what is kept here.
        moved = [trainer.strategy.batch_to_device(dict(batch)) for batch in self._batches]
        return [trainer.precision_plugin.convert_input(batch) for batch in moved]

    def _read(self, trainer: Trainer) -> list[Batch]:
        loaders = trainer.val_dataloaders
        if isinstance(loaders, Mapping):
            loaders = list(loaders.values())
        loader = loaders[0] if isinstance(loaders, list | tuple) else loaders
        dataset = loader.dataset
        batches: dict[int, Batch] = {}
        for start in np.linspace(0, len(dataset) - 1, min(self.num_images, len(dataset))).round().astype(int):
            for index in range(int(start), len(dataset)):
                if index in batches:
                    continue
                # Evaluation samples are asked for by (draw, index), and their draw is their index.
                batch = loader.collate_fn([dataset[index, index]])
                if "image" in batch:
                    batches[index] = batch
                    break
        return [batches[index] for index in sorted(batches)]
