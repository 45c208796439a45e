"""Proxy: a differentiable imitation of a standard codec, its pictures and its bits."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.codecs.proxies.altered import altered
from models.codecs.proxies.real import Coding
from models.codecs.standard.base import StandardCodec
from models.outputs import CodecOutput
from models.subject import Subject


class Proxy(Subject):
    """Base of all proxies. A subclass implements ``imitate``.

    As the subject of a stage it is fitted to its codec: it answers with its own picture and bits, and with the codec's
    (``extras``), in training of pictures altered at random as filters alter them.

    Args:
        codec: what it imitates.
        rates: those of the codec that it shall know, from fewest bits to most; ``None`` for the codec's own ladder.

    Raises:
        ValueError: rates out of order or outside the codec's range; or, when weights are loaded, these were fitted to
            another codec.
    """

    gives = ("bits", "pixels", "extras.real", "extras.real_bits")

    def __init__(self, codec: StandardCodec, rates: Sequence[float] | None = None):
        super().__init__()
        if not isinstance(codec, StandardCodec):
            raise ValueError(f"codec is {type(codec).__name__}: a proxy imitates a standard codec")
        values = tuple(map(float, codec.rates if rates is None else rates))
        low, high = codec.rates[0], codec.rates[-1]
        rising = [(rate - low) / (high - low) for rate in values]
        if not values or rising != sorted(set(rising)) or not 0 <= rising[0] <= rising[-1] <= 1:
            raise ValueError(
                f"rates={list(values)} must be one or more of the codec's {low:g}..{high:g}, from fewest bits to most"
            )
        self.codec, self.rates = codec, values
        self.register_buffer("imitates", torch.tensor(list(self.identity()), dtype=torch.uint8))

    def identity(self) -> bytes:
        """8 bytes that tell apart what is imitated: the codec and all its settings but the rate."""
        about = self.codec.about()
        text = json.dumps([type(self.codec).__qualname__, about["command"], about["settings"]])
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    def level(self, rate: float) -> float:
        """The place of a rate among ``rates``, in [0, 1] from the fewest bits to the most."""
        places = np.linspace(0, 1, len(self.rates))
        order = np.argsort(self.rates)
        return float(np.interp(rate, np.array(self.rates)[order], places[order]))

    def imitate(self, x: Tensor, rate: float, keys: Tensor | None) -> CodecOutput:
        """What the codec would make of pictures, differentiably.

        Args:
            x: (B, 3, H, W) in [0, 1], of any size.
            rate: of the codec.
            keys: one a sample where its estimate of bits needs noise in training; ``None`` for none.

        Returns:
            ``x_hat``, float32, and ``bits["base"]`` of whole files.
        """
        raise NotImplementedError

    def answer(self, batch: Mapping[str, Any], rate: float | None, keys: Tensor) -> CodecOutput:
        """Both answers: its own, and the codec's, ``extras["real"]`` (B, 3, H, W) and ``extras["real_bits"]`` (B,)."""
        rate = self.rates[len(self.rates) // 2] if rate is None else rate
        x = altered(batch["image"], keys) if self.training else batch["image"]
        coding = Coding(self.codec, x, rate)
        output = self.imitate(x, rate, keys if self.training else None)
        real = coding.result()
        output.rate = rate
        # Where the codec failed there is nothing to learn.
        output.extras = {
            "real": torch.where(real.coded[:, None, None, None], real.x_hat, output.x_hat.detach()),
            "real_bits": torch.where(real.coded, real.bits, output.bits["base"].detach()),
        }
        return output

    def _load_from_state_dict(self, state_dict, prefix, *args):
        stored = state_dict.get(f"{prefix}imitates")
        if stored is not None and bytes(stored.tolist()) != self.identity():
            raise ValueError(
                f"{prefix.rstrip('.') or 'the proxy'} was fitted to another codec, or to other settings of it, than "
                f"this {type(self.codec).__name__}: fit it again, or give the codec that it was fitted to"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
