"""FastestDet's decode: what its raw map says of a picture."""

import torch
from torch import Tensor, nn


class FastestDetDecode(nn.Module):
    """A map of one candidate a cell as candidates: objectness, 4 box values and class probabilities.

        score = objectness^0.6 * max(class)^0.4
        x = (column + tanh v1) / columns,  y = (row + tanh v2) / rows,  w = sigmoid v3,  h = sigmoid v4

    the last four as shares of the picture, x and y of the box's centre.

    Reference: FastestDet (BSD-3), https://github.com/dog-qiuqiu/FastestDet, ``utils/tool.py``.
    """

    def forward(self, raw: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """Candidates of a map (B, 5 + K, h, w), differentiable.

        Args:
            raw: what the network gave.
            size: (H, W) of the picture that boxes are in pixels of.

        Returns:
            ``boxes`` (B, h w, 4) as x0, y0, x1, y1 in pixels; ``objectness`` and ``scores`` (B, h w) and ``classes``
            (B, h w, K) in [0, 1].
        """
        rows, columns = raw.shape[-2:]
        objectness, values, classes = raw.float().split([1, 4, raw.shape[1] - 5], 1)
        row = torch.arange(rows, device=raw.device)[:, None]
        column = torch.arange(columns, device=raw.device)
        x, y = (column + values[:, 0].tanh()) / columns, (row + values[:, 1].tanh()) / rows
        half_width, half_height = values[:, 2].sigmoid() / 2, values[:, 3].sigmoid() / 2
        corners = torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), -1)
        height, width = size
        boxes = corners * torch.tensor([width, height, width, height], device=raw.device)
        best = classes.amax(1, keepdim=True)
        return {
            "boxes": boxes.flatten(1, 2),
            "objectness": objectness.flatten(1),
            "classes": classes.flatten(2).transpose(1, 2),
            "scores": (objectness**0.6 * best**0.4).flatten(1),
        }
