"""How many bits a JPEG takes, from its rounded coefficients: a few features, weighed by non-negative least squares.

The features are of rounded coefficients, as the coder sees them. A rate of coefficients before rounding would reward
shrinking what is zero anyway.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

FILE = Path(__file__).with_suffix(".json")
"""What ``python -m benchmarks.proxy_fidelity DIR --fit`` found: qualities, and bits a feature at each."""


def _zigzag() -> np.ndarray:
    """The place of each frequency, row by row, in the order of coding: 0 for the DC, 63 for the last."""
    v, u = np.mgrid[:8, :8]
    diagonal = u + v
    return np.lexsort((np.where(diagonal % 2, v, u).ravel(), diagonal.ravel())).argsort()


PLACES = torch.from_numpy(_zigzag())
BANDS = ((1, 6), (6, 21), (21, 64))
"""Places of low, middle and high frequencies: the farther a nonzero, the longer the run of zeros before it."""


def features(luma: Tensor, *chroma: Tensor) -> Tensor:
    """What the bits depend on.

    Args:
        luma: rounded coefficients (B, rows, columns, 64).
        chroma: likewise, of Cb and Cr.

    Returns:
        (B, 10), all at least 0: 1, the number of blocks; nonzeros of luma in low, middle and high frequencies, and of
        chroma in all; and of both the sum of log2 magnitudes, and that of log2 differences of DCs. A nonzero counts
        min(|c|, 1), so that those of magnitude 1 have a gradient towards 0, and zeros none.
    """
    columns = [
        luma.new_ones(len(luma)),
        luma.new_full((len(luma),), sum(p[0, ..., 0].numel() for p in (luma, *chroma))),
    ]
    places = PLACES.to(luma.device)
    for planes, scan, bands in (([luma], _units, BANDS), (list(chroma), _rows, ((1, 64),))):
        blocks = torch.cat([plane.flatten(1, 2) for plane in planes], 1).abs()
        nonzero = blocks.clamp(max=1).sum(1)
        columns += [nonzero[:, (places >= low) & (places < high)].sum(1) for low, high in bands]
        columns.append(torch.log2(1 + blocks[..., 1:]).sum((1, 2)))
        steps = torch.cat([scan(plane[..., 0]).diff(dim=1) for plane in planes], 1)
        columns.append(torch.log2(1 + steps.abs()).sum(1))
    return torch.stack(columns, 1)


def shipped() -> tuple[Tensor, Tensor]:
    """Qualities (Q,) and the fitted bits a feature at each, (Q, 10)."""
    found = json.loads(FILE.read_text())
    return torch.tensor(found["qualities"]), torch.tensor(found["bits_a_feature"])


def at(qualities: Tensor, weights: Tensor, quality: float) -> Tensor:
    """Bits a feature at a quality, (10,): in a straight line between the fitted ones."""
    above = torch.searchsorted(qualities, quality).clamp(1, len(qualities) - 1)
    low, high = qualities[above - 1], qualities[above]
    share = ((quality - low) / (high - low)).clamp(0, 1)
    return weights[above - 1] + share * (weights[above] - weights[above - 1])


def fitted(rows: Sequence[Tensor], bits: Sequence[float]) -> Tensor:
    """Bits a feature, (10,), none below 0, with the least squared *relative* error.

    Args:
        rows: features of pictures at one quality, (10,) each; of several sizes, else the first two are one.
        bits: of their files.
    """
    target = np.asarray(bits, np.float64)
    weights, _ = nnls(torch.stack(list(rows)).double().numpy() / target[:, None], np.ones(len(target)))
    return torch.from_numpy(weights).float()


def _units(dc: Tensor) -> Tensor:
    """DCs (B, rows, columns) in the order of coding where chroma has half the resolution: 2x2 blocks at a time."""
    batch, rows, columns = dc.shape
    if rows % 2 or columns % 2:
        return _rows(dc)
    return dc.reshape(batch, rows // 2, 2, columns // 2, 2).transpose(2, 3).flatten(1)


def _rows(dc: Tensor) -> Tensor:
    return dc.flatten(1)
