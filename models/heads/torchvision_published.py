"""Detectors as torchvision publishes them, with weights from a file."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import load_state_dict
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d

from models.git_lfs import refuse_pointer
from models.heads.features import is_pixels
from models.heads.norms import NormalisePixels, batch_norm_to_group_norm
from models.outputs import LatentSpec


def published(
    spec: LatentSpec,
    builder: str,
    kind: type[nn.Module],
    num_classes: int,
    weights: Any,
    norm: str,
    arguments: dict[str, Any],
) -> nn.Module:
    """One of torchvision's detectors, its backbone a list of maps with ``strides``.

    Args:
        spec: what is read; pixels.
        builder: torchvision's name of it.
        kind: the class that it must be of.
        num_classes: the network's own number of classes.
        weights: a file that torchvision publishes, or ``None``.
        norm: ``"group"`` replaces batch norm by group norm, ``"frozen"`` fixes its statistics and scales.
        arguments: further ones of the builder.

    Raises:
        ValueError: a latent; no such detector, or one of another kind; weights of another network, or
            with group norm.
        FileNotFoundError: there is no file ``weights``.
    """
    if not is_pixels(spec):
        raise ValueError(f"{builder!r} is a whole detector on pixels: give `features` for a latent")
    try:
        network = get_model(
            builder, weights=None, weights_backbone=None, num_classes=num_classes, **arguments
        )
    except ValueError as error:
        raise ValueError(f"torchvision has no detector {builder!r}: {error}") from error
    if not isinstance(network, kind):
        raise ValueError(
            f"{builder!r} is a {type(network).__name__}, not a {kind.__name__}: choose the head of its kind"
        )
    if norm not in ("group", "frozen"):
        raise ValueError(f"`norm` is {norm!r}; it can be 'group' or 'frozen'")
    if norm == "group" and weights is not None:
        raise ValueError(
            "`norm: group` drops the statistics that weights rely on: use `norm: frozen` with them"
        )
    batch_norm_to_group_norm(network) if norm == "group" else _freeze_norms(network)
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path} with the weights of {builder}")
        refuse_pointer(path)
        try:
            network.load_state_dict(load_state_dict(str(path)))
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise ValueError(
                f"{path} does not hold the weights of {builder!r} with {num_classes} classes: {reason[:200]}; "
                "give `class_ids` and `arguments: {num_classes: ...}` where the classes differ"
            ) from error
    network.backbone = _Published(network.backbone, network.transform)
    return network


class _Published(nn.Module):
    """The backbone of one of torchvision's detectors, with its normalisation: a list of maps and their strides."""

    def __init__(self, backbone: nn.Module, transform: nn.Module):
        super().__init__()
        self.normalise = NormalisePixels(transform.image_mean, transform.image_std)
        self.backbone, self.multiple = backbone, transform.size_divisible
        with torch.no_grad():
            side = 4 * self.multiple
            maps = self.eval()(torch.zeros(1, 3, side, side))
        self.train()
        self.strides = tuple(side // level.shape[-1] for level in maps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of pictures (B, 3, H, W) in [0, 1], padded with zeros after normalisation, as torchvision does."""
        x = self.normalise(x)
        x = F.pad(x, (0, -x.shape[-1] % self.multiple, 0, -x.shape[-2] % self.multiple))
        return list(self.backbone(x).values())


def _freeze_norms(module: nn.Module) -> None:
    """Batch norm with fixed statistics, scale and shift, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _freeze_norms(child)
