"""Cross-entropy of partly labelled batches as (sum, count), for images and for pixels alike."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_sum(
    logits: Tensor,
    target: Tensor,
    *,
    missing: int,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over the labelled entries, and what to divide it by.

    sum = -sum_i w[t_i] log softmax(logits_i)[t_i],  count = sum_i w[t_i],  over entries i with t_i != missing

    sum / count is torch's weighted mean; but the two can be added up over ranks or batches before they are
    divided, and with no labelled entry the sum is exactly 0 with a gradient of zeros.

    Args:
        logits: (B, K) or (B, K, H, W), any float type; computed in float32.
        target: int64 (B,) or (B, H, W), class indices.
        missing: the target value of entries without a label.
        class_weights: w, (K,); all 1 by default.
        label_smoothing: share of the target's probability that is spread over all classes, in [0, 1].

    Returns:
        Loss sum in nats and count, float32 scalars.

    Example:
        >>> total, count = cross_entropy_sum(torch.zeros(3, 4), torch.tensor([0, 3, -1]), missing=-1)
        >>> round((total / count).item(), 4), count.item()  # log 4
        (1.3863, 2.0)
    """
    labelled = target != missing
    with torch.autocast(logits.device.type, enabled=False):
        loss_sum = F.cross_entropy(
            logits.float(),
            target,
            weight=class_weights,
            ignore_index=missing,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
    if class_weights is None:
        return loss_sum, labelled.sum().float()
    # No boolean indexing: it would wait for the GPU. Class 0 stands in for missing entries, at weight 0.
    weights = class_weights[target.masked_fill(~labelled, 0)]
    return loss_sum, (weights * labelled).sum()


def weights_of_classes(class_weights: Sequence[float] | None, names: Sequence[str]) -> Tensor | None:
    """Class weights as a tensor (K,), checked against the classes they are for.

    Raises:
        ValueError: they are not one positive number for each of ``names``.
    """
    if class_weights is None:
        return None
    if len(class_weights) != len(names) or min(class_weights) <= 0:
        raise ValueError(
            f"`class_weights` must be {len(names)} positive numbers, one for each of {list(names)}, "
            f"not {list(class_weights)}"
        )
    return torch.tensor(class_weights, dtype=torch.float32)
