"""Large pictures: the transforms run tile by tile, the bitstream stays one.

Legend: s pixels per position of the latent; a halo is what a tile sees of its neighbours on each side.

::

    whole picture ──► g_a on tiles with a halo, halo's results dropped ──► y (whole) ──► one bitstream
    y_hat (whole) ──► g_s on tiles with a halo, halo's results dropped ──► x_hat (whole)

A convolution sees no farther than its kernel. With a halo as wide as the transform's reach, every result that is kept
has been computed from what the whole picture would have given it: the same numbers up to the order of float sums.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.attached import with_attached
from models.codecs.base import Codec

WIDEST_REACH = 32
"""Latent positions on each side that a reach is looked for: 512 pixels at stride 16."""


def in_tiles(
    transform: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, halo: int, up: int = 1, down: int = 1
) -> Tensor:
    """Apply a local transform to one tile after another.

    Args:
        transform: (B, C, h, w) -> (B, C', h * up / down, w * up / down), where h and w are multiples of ``down``.
        x: (B, C, H, W), H and W multiples of ``down``.
        tile: side of a tile in positions of ``x``, a multiple of ``down``.
        halo: what a tile sees on each side beyond itself, in positions of ``x``, a multiple of ``down``.
        up: results per position of ``x``, along each side.
        down: positions of ``x`` per result, along each side.

    Returns:
        (B, C', H * up / down, W * up / down).
    """
    assert tile % down == halo % down == 0
    height, width = x.shape[-2:]
    result: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            # Where the picture ends, so does the tile: the transform then pads as it does on the whole picture.
            above, before = max(top - halo, 0), max(left - halo, 0)
            part = transform(x[..., above : bottom + halo, before : right + halo])
            if result is None:
                result = part.new_empty(*part.shape[:2], height * up // down, width * up // down)
            y0, y1, x0, x1 = (edge * up // down for edge in (top, bottom, left, right))
            dy, dx = above * up // down, before * up // down
            result[..., y0:y1, x0:x1] = part[..., y0 - dy : y1 - dy, x0 - dx : x1 - dx]
    assert result is not None
    return result


@contextmanager
def tiled(codec: Codec, pixels: int) -> Iterator[None]:
    """Inside the block, the codec's g_a and g_s take pictures tile by tile; files and decodes stay the same.

    Args:
        codec: in evaluation mode, with a ``receptive_field``.
        pixels: side of a tile without its halo.

    Raises:
        ValueError: the codec cannot be tiled, or ``pixels`` is not a positive multiple of its latent's stride.
    """
    halo = codec.receptive_field
    if halo is None:
        raise ValueError(
            f"{type(codec).__name__} cannot be run in tiles: it has no bounded receptive field; leave the tiles out"
        )
    stride = _latent_stride(codec)
    if pixels < stride or pixels % stride:
        raise ValueError(f"a tile of {pixels} pixels must be a positive multiple of {stride} for this codec")
    transforms = codec.transforms()
    g_a, g_s = transforms["g_a"], transforms["g_s"]
    analyse, synthesise = g_a.forward, g_s.forward
    g_a.forward = lambda x: in_tiles(analyse, x, tile=pixels, halo=halo, down=stride)
    g_s.forward = lambda y: in_tiles(synthesise, y, tile=pixels // stride, halo=halo // stride, up=stride)
    try:
        yield
    finally:
        del g_a.forward, g_s.forward


@torch.no_grad()
def reach(g_a: nn.Module, g_s: nn.Module, *, latent_channels: int, stride: int) -> int | None:
    """How far beyond a tile the transforms look, on the side where they look farthest.

    Everything beyond an edge is made NaN; whatever depends on it becomes NaN too, and shows how far that goes. It holds
    for any network, needs no list of known layers, and errs on the side of too far only. The probe runs in float64,
    where convolutions are sums over their kernels and nothing else.

    Args:
        g_a: (B, 3, H, W) -> (B, latent_channels, H / stride, W / stride).
        g_s: the way back.
        latent_channels: of y.
        stride: pixels per position of y.

    Returns:
        Pixels, a multiple of ``stride``; ``None`` where a transform looks everywhere, as global pooling does.
    """
    device = next((p.device for p in g_a.parameters()), torch.device("cpu"))
    analysis, synthesis = (copy.deepcopy(m).double().eval() for m in (g_a, g_s))
    for layer in (*with_attached(analysis), *with_attached(synthesis)):
        layer.double()
    length = 2 * WIDEST_REACH
    longest = 0
    for vertical in (False, True):
        for behind in (False, True):
            for transform, channels, up, down in (
                (analysis, 3, 1, stride),
                (synthesis, latent_channels, stride, 1),
            ):
                known = torch.full((length,), 0.5, dtype=torch.float64, device=device)
                known[length // 2 :] = torch.nan
                known = (known.flip(0) if behind else known).repeat_interleave(down)
                strip = known.expand(1, channels, down * 2, -1)
                strip = strip.transpose(-1, -2) if vertical else strip
                result = transform(strip.contiguous())
                spoilt = result.isnan().any(3 if vertical else 2).any(1)[0]
                spoilt = spoilt.flip(0) if behind else spoilt
                # From the first result that is spoilt to the edge, in latent positions, rounded up.
                clean = int(spoilt.to(torch.uint8).argmax())
                if not clean:
                    return None
                longest = max(longest, -(-(length // 2 * up - clean) // up))
    return longest * stride


def _latent_stride(codec: Codec) -> int:
    """Pixels per position of the one latent map between g_a and g_s."""
    return max(spec.stride or 1 for spec in codec.latents.values())
