"""Real codecs in training: pictures go through them in threads, in memory, while the networks compute."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from models.codecs.standard.base import StandardCodec, levels_of


@dataclass
class Real:
    """What a real codec made of a batch.

    Attributes:
        x_hat: decoded pictures (B, 3, H, W) in [0, 1], zeros where it failed.
        bits: 8 x file length, (B,), zeros where it failed.
        coded: where it did not fail, bool (B,).
        failed: {position in the batch: reason}.
    """

    x_hat: Tensor
    bits: Tensor
    coded: Tensor
    failed: dict[int, str]


class Coding:
    """A batch under way: coded in threads from the moment this is made, until ``result`` is asked for.

    Args:
        codec: that really codes.
        x: pictures (B, 3, H, W) in [0, 1].
        rate: its native rate.
    """

    def __init__(self, codec: StandardCodec, x: Tensor, rate: float | None):
        self.like = x.detach()
        codec.check_available()
        codec.check_size(tuple(x.shape[-2:]))
        pictures = levels_of(self.like)
        self.running: list[Future] = [_pool().submit(_round_trip, codec, image, rate) for image in pictures]

    def result(self) -> Real:
        """Wait for the rest.

        Raises:
            RuntimeError: it failed on every picture.
        """
        height, width = self.like.shape[-2:]
        pictures = np.zeros((len(self.running), height, width, 3), np.uint8)
        bits, failed = np.zeros(len(self.running), np.float32), {}
        for position, future in enumerate(self.running):
            try:
                pictures[position], bits[position] = future.result()
            except Exception as error:  # of a foreign library: any
                failed[position] = f"{type(error).__name__}: {error}"
        if len(failed) == len(self.running):
            raise RuntimeError(f"the codec fails on every picture, the first: {failed[0]}")
        x_hat = (
            torch.from_numpy(pictures).to(self.like.device).permute(0, 3, 1, 2).to(self.like.dtype).div_(255)
        )
        coded = torch.ones(len(bits), dtype=torch.bool)
        coded[list(failed)] = False
        return Real(x_hat, torch.from_numpy(bits).to(self.like.device), coded.to(self.like.device), failed)


def _round_trip(codec: StandardCodec, image: np.ndarray, rate: float | None) -> tuple[np.ndarray, float]:
    data = codec.encode(np.ascontiguousarray(image), rate)
    return codec.decode(data), 8.0 * len(data)


@cache
def _pool() -> ThreadPoolExecutor:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="real-codec")


# Threads do not survive a fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
