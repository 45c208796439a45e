"""Attention of layers that have an exact form: for networks on which encoder and decoder must agree to the last bit.

Legend: B images, L tokens, C width. Nothing here is fused: ``nn.Linear``, ``Product``, ``nn.Softmax``, ``nn.LayerNorm``
and ReLU, each of which models/entropy/exact.py computes alike on every machine. ``nn.MultiheadAttention`` and
``scaled_dot_product_attention`` have no such form, and GELU's erf differs by an ulp between libraries: none is used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.entropy.exact_attention import Product
from models.transforms.linear_tokens import LinearTokenParameters


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d)) v for each of the heads, d = width / heads.

    Args:
        width: C.
        heads: a divisor of it.

    Reference: Vaswani et al., Attention Is All You Need, NeurIPS 2017, https://arxiv.org/abs/1706.03762, equation 1 and
    section 3.2.2.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} must be a multiple of heads={heads}")
        self.heads = heads
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.similarity, self.softmax, self.mix = Product(), nn.Softmax(dim=-1), Product(weights=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, C) to the same.

        Args:
            x: tokens.
            mask: bool (L, L): whether token i (row) sees token j (column); every row sees at least one.
        """
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        similarity = self.similarity(q * q.shape[-1] ** -0.5, k.transpose(-2, -1))
        if mask is not None:
            similarity = similarity.masked_fill(~mask, -torch.inf)
        mixed = self.mix(self.softmax(similarity), v)  # (B, heads, L, d)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One block of a transformer, pre-norm: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: C.
        heads: a divisor of it.
        expansion: of the width inside the MLP.

    Reference: Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020,
    https://arxiv.org/abs/2002.04745, figure 1 b.
    """

    def __init__(self, width: int, heads: int, *, expansion: int = 4):
        super().__init__()
        self.norm1, self.attention, self.norm2 = (
            nn.LayerNorm(width),
            Attention(width, heads),
            nn.LayerNorm(width),
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.ReLU(), nn.Linear(expansion * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, C) to the same; ``mask`` as in ``Attention``."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class TokenParameters(nn.Module):
    r"""Scales and means of one layer's tokens from the layers before it: the network of a ``Conditional``.

    ::

        layer 0: (B, L0, C0) ──► Linear ─┐
        layer 1: (B, L1, C1) ──► Linear ─┼─► + positions ─► blocks, block-causal ─► norm ─► Linear ─► (B, L, 2 C)
        queries: (L, width) ─────────────┘                                          (the queries' alone)

    Args:
        given: (length, channels) of every layer that it is given, in order; a vector has length 1.
        length: L, tokens of this layer.
        channels: of this layer's tokens.
        width: of the blocks.
        heads: a divisor of it.
        depth: number of blocks.
        shortcut: add what a linear function of all tokens before says (``LinearTokenParameters``), and begin with that
            alone: with few examples, attention finds it late or never.
    """

    def __init__(
        self,
        given: Sequence[tuple[int, int]],
        length: int,
        channels: int,
        *,
        width: int = 64,
        heads: int = 4,
        depth: int = 2,
        shortcut: bool = False,
    ):
        super().__init__()
        self.given, self.length = tuple((count, inputs) for count, inputs in given), length
        lengths = [*(count for count, _ in given), length]
        self.enter = nn.ModuleList(nn.Linear(inputs, width) for _, inputs in given)
        self.positions = nn.Parameter(0.02 * torch.randn(sum(lengths), width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, 2 * channels)
        # Scales begin at 1: from below the smallest of the table, training takes long to find them.
        nn.init.ones_(self.leave.bias.data[:channels])
        self.shortcut: LinearTokenParameters | None = None
        if shortcut:
            self.shortcut = LinearTokenParameters(self.given, length, channels)
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)
        self.register_buffer("mask", block_causal(lengths), persistent=False)

    def forward(self, *given: Tensor) -> Tensor:
        """Tokens (B, L_i, C_i), or vectors (B, C_i), of the layers before to (B, L, 2 C).

        Raises:
            ValueError: other layers than were announced.
        """
        tokens = [x[:, None] if x.dim() == 2 else x for x in given]
        if tuple(x.shape[1:] for x in tokens) != self.given:
            raise ValueError(
                f"given {[tuple(x.shape[1:]) for x in tokens]}, but made for {list(self.given)} (length, channels)"
            )
        entered = [layer(x) for layer, x in zip(self.enter, tokens, strict=True)]
        queries = self.positions[-self.length :].expand(len(tokens[0]), -1, -1)
        x = torch.cat([torch.cat(entered, 1) + self.positions[: -self.length], queries], 1)
        for block in self.blocks:
            x = block(x, self.mask)
        found = self.leave(self.norm(x[:, -self.length :]))
        return found if self.shortcut is None else found + self.shortcut(*tokens)


def block_causal(lengths: Sequence[int]) -> Tensor:
    """The mask under which a token sees its own layer and those before: bool (L, L), row sees column.

    Args:
        lengths: tokens of every layer, in order; they add up to L.
    """
    layer = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return layer[:, None] >= layer[None, :]
