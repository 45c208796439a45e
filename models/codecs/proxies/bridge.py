"""The bridge: what a real codec makes of a picture as the value, how an imitation of it reacts as the gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.codecs.proxies.real import Coding, Real
from models.outputs import CodecOutput

MODES = ("real_forward", "proxy_only", "straight_through")
"""Where values and gradients come from: the codec and the proxy; the proxy both; the codec, and an identity for pixels
and nothing for bits."""


def bridged(real: Tensor, proxy: Tensor, coded: Tensor) -> Tensor:
    """``real`` forward, the gradient of ``proxy`` backward, image by image; ``proxy`` alone where nothing was coded.

    The values are ``real``'s own, bit by bit.
    """
    where = coded.view(-1, *[1] * (proxy.dim() - 1))
    return torch.where(where, real.to(proxy) + (proxy - proxy.detach()), proxy)


def bridge(
    x: Tensor, mode: str, code: Callable[[Tensor], Coding], imitate: Callable[[Tensor], CodecOutput]
) -> tuple[CodecOutput, dict[int, str]]:
    """Send pictures through a codec that has no gradients.

    Args:
        x: pictures (B, 3, H, W) in [0, 1].
        mode: one of ``MODES``.
        code: starts the real codec on them.
        imitate: the proxy.

    Returns:
        ``x_hat`` and ``bits`` of the bridge; {position: reason} where the codec failed, and the proxy stepped in.
    """
    if mode == "proxy_only":
        return imitate(x), {}
    coding = code(x)  # at work while the proxy computes
    if mode == "straight_through":
        real = coding.result()
        # Where nothing was coded: the picture itself, at the bits that the others had.
        mean = real.bits.sum() / real.coded.sum()
        bits = torch.where(real.coded, real.bits, mean)
        return _output(x, bridged(real.x_hat, x, real.coded), bits), real.failed
    imitation = imitate(x)
    real: Real = coding.result()
    bits = bridged(real.bits, imitation.bits["base"], real.coded)
    return _output(x, bridged(real.x_hat, imitation.x_hat, real.coded), bits), real.failed


def _output(x: Tensor, x_hat: Tensor, bits: Tensor) -> CodecOutput:
    return CodecOutput(tuple(x.shape[-2:]), x_hat=x_hat, bits={"base": bits})
