"""Serial context: every position's parameters come from its decoded neighbours above and to the left.

All positions of a wavefront are coded at once. With a masked kernel of k = 2 r + 1, position (i, j) needs row i up to
j - 1 and the r rows above up to j + r; all of these have a smaller j + (r + 1) i, so positions that share this number
do not need one another. A picture of h x w latents takes w + (r + 1)(h - 1) steps instead of h w.

Differs from CompressAI: its streams hold the positions in raster order.
"""

import torch
from torch import Tensor, nn

from models.entropy.exact import Exact
from models.entropy.grid import round_inputs
from models.entropy.quantisation_step import Gaussian
from models.entropy.stream import Stream

# B batch, M latent channels, h and w sides of y, P positions of a wavefront, T taps of the masked kernel


def wavefronts(height: int, width: int, reach: int) -> list[tuple[Tensor, Tensor]]:
    """(rows, columns) of the positions of each step, top row first.

    Args:
        height: of y.
        width: of y.
        reach: r, positions that the kernel reaches to each side.
    """
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    step = (columns + (reach + 1) * rows).flatten()
    sizes = step.bincount().tolist()
    order = step.argsort(stable=True).split(sizes)
    return [(positions // width, positions % width) for positions in order]


def code_serially(
    stream: Stream,
    y: Tensor | None,
    side: Tensor,
    *,
    context: nn.Conv2d,
    parameters: nn.Module,
    gaussian: Gaussian,
    exact: Exact,
    shift: Tensor | None = None,
) -> Tensor:
    """Write or read y under a serial context.

    Args:
        stream: of the batch.
        y: float32 (B, M, h, w) when writing; ``None`` when reading.
        side: what the hyper-latent tells about each position, float64 (B, S, h, w).
        context: masked convolution M -> C channels, with its ``mask``.
        parameters: pointwise network, (B, S + C, ...) -> (B, 2 M, ...): scales, then means.
        gaussian: codes the positions of a step under their scales and means, float64 (B, P, M).
        exact: runs the networks.
        shift: added to the context everywhere, float64 (C,).

    Returns:
        y_hat, float32 (B, M, h, w).
    """
    layer, network = exact.copy_of(context), exact.copy_of(parameters)
    channels, reach = layer.in_channels, layer.kernel_size[0] // 2
    taps = layer.mask[0, 0].nonzero()
    weight = layer.weight[:, :, taps[:, 0], taps[:, 1]].transpose(1, 2).flatten(1)
    count, _, height, width = side.shape
    side_last = side.permute(0, 2, 3, 1).contiguous()
    y_last = None if y is None else y.permute(0, 2, 3, 1).contiguous()
    # What is decoded so far, as an exact layer sees it; zeros beyond the picture and for what is to come.
    seen = side.new_zeros(count, height + 2 * reach, width + 2 * reach, channels)
    y_hat = torch.empty(count, height, width, channels, dtype=torch.float32, device=side.device)
    bias = layer.bias if shift is None else layer.bias + shift
    for rows, columns in wavefronts(height, width, reach):
        rows, columns = rows.to(side.device), columns.to(side.device)
        around = seen[:, rows[:, None] + taps[:, 0], columns[:, None] + taps[:, 1]]  # (B, P, T, M)
        told = around.flatten(2) @ weight.T + bias  # (B, P, C)
        joined = torch.cat([side_last[:, rows, columns], told], 2).flatten(0, 1)
        scale, mean = network(joined.T[None, :, :, None])[0, :, :, 0].T.unflatten(0, (count, -1)).chunk(2, 2)
        part = None if y_last is None else y_last[:, rows, columns]
        decoded = gaussian(stream, part, scale, mean)
        y_hat[:, rows, columns] = decoded
        seen[:, rows + reach, columns + reach] = round_inputs(decoded.double())
    return y_hat.permute(0, 3, 1, 2).contiguous()
