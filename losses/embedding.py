"""Embedding: whether a network takes the decoded picture for the same as the original."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.term import Term
from models.outputs import CodecOutput


class EmbeddingDistance(Term):
    """1 - cosine of a network's vectors of the decoded picture and of the original, in [0, 2].

    With a network of faces, the identity term of face codecs. A network that trained this term does not judge what it
    trained.

    Args:
        network: (B, 3, H, W) in [0, 1] -> vectors (B, N), in ``models.frozen.Frozen``.

    Reference: Richardson et al., Encoding in Style (pSp), CVPR 2021, https://arxiv.org/abs/2008.00951, equation 3.
    """

    reads = ("pixels",)

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar."""
        with torch.no_grad():
            original = self.network(batch["image"]).float()
        return 1 - F.cosine_similarity(self.network(output.x_hat).float(), original).mean()
