"""What tests of standard codecs share: drawn pictures, their quality, and codecs whose encoder is here."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.codecs.standard.base import MissingEncoder, StandardCodec
from tests.conftest import tiny_codec


def standard(name: str) -> StandardCodec:
    """A codec in evaluation mode, where its encoder is here."""
    codec = tiny_codec(name).eval()
    try:
        codec.check_available()
    except MissingEncoder as error:
        pytest.skip(str(error))
    return codec


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture with some texture, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3)).astype(np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    return np.clip(smooth + rng.normal(0, 2, smooth.shape), 0, 255).astype(np.uint8)


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def quality(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(1e-9, ((a.astype(float) - b) ** 2).mean()))
