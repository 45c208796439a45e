"""Any timm network, with weights from nowhere, a local file or the hub, and errors that say what to do."""

import difflib
import os
import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import timm
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn

from models.heads.norms import batch_norm_to_group_norm
from models.heads.published import NORMALISATION, read_weights, silent
from models.weights_file import PACKAGE, find_weights

PROBE_SECONDS = 3.0


def create_backbone(
    backbone: str,
    *,
    pretrained: bool = False,
    weights: str | os.PathLike[str] | None = None,
    norm: Literal["own", "frozen", "group"] = "own",
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a timm network.

    Args:
        backbone: timm's name, ``resnet18`` or with a weight tag, ``resnet18.a1_in1k``.
        pretrained: load timm's published weights, from the local cache or the network.
        weights: load this timm checkpoint (``.pth`` or ``.safetensors``) instead, or ``package:NAME``: the one that an
            installed package holds (models/weights_file.py); needs no network. Of the network's ``pretrained_cfg``,
            ``mean`` and ``std`` are then those that the package's weights were trained with.
        norm: ``"own"`` keeps the network's normalisation, ``"group"`` replaces batch norm by group norm, so
            that batch size and ranks do not change results; not for pretrained weights, whose statistics
            it would lose. ``"frozen"`` keeps batch norm as the weights bring it, while all else trains: with pretrained
            weights, where batches are small or of several kinds of pictures.
        arguments: further arguments of ``timm.create_model``, e.g. ``{drop_path_rate: 0.1}``.

    Raises:
        ValueError: timm has no such network, ``norm`` is unknown or cannot go with weights, or ``weights``
            does not hold this network's weights, or is a file that git-LFS has not fetched.
        FileNotFoundError: there is no file ``weights``.
        ImportError: the package of ``weights`` is not installed.
        RuntimeError: published weights are neither in the cache nor downloadable.
    """
    # Names with a colon (local-dir:, hf-hub:) are not in timm's list.
    if ":" not in backbone and not timm.is_model(backbone):
        close = difflib.get_close_matches(backbone, timm.list_models(), n=5)
        raise ValueError(f"timm has no network {backbone!r}; close names: {close}")
    if norm not in ("own", "frozen", "group"):
        raise ValueError(f"`norm` is {norm!r}; it can be 'own', 'frozen' or 'group'")
    if norm == "group" and (pretrained or weights):
        raise ValueError(
            "`norm: group` drops the statistics that pretrained weights rely on: use `norm: own` with them"
        )
    arguments = dict(arguments or {})

    if weights is not None:
        path = find_weights(weights, backbone)
        state = read_weights(path, backbone)
        stored = {_fingerprint(t) for t in state.values() if isinstance(t, Tensor)}
        overlay = {"state_dict": state, **NORMALISATION.get(str(weights).removeprefix(PACKAGE), {})}
        try:
            # timm lists all weights that a network without its last layers has no place for.
            with silent("timm.models._builder"):
                net = timm.create_model(
                    backbone, pretrained=True, pretrained_cfg_overlay=overlay, **arguments
                )
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"{path} does not hold the weights of {backbone!r}: {reason}") from error
        net.pretrained_cfg.pop("state_dict", None)  # or every copy of the network would copy it
        _check_loaded(net, stored, path, backbone)
        return freeze_batch_norm_2d(net) if norm == "frozen" else net
    if pretrained:
        try:
            with _hub_that_fails_fast():
                net = timm.create_model(backbone, pretrained=True, **arguments)
        except OSError as error:  # of which huggingface_hub's and urllib's are subclasses
            raise RuntimeError(
                f"pretrained weights of {backbone!r} are neither in the local cache nor downloadable from "
                "here: give `weights: FILE` (a timm checkpoint), copy the cache (HF_HOME) from a machine "
                "with a network, or set `pretrained: false`"
            ) from error
    else:
        net = timm.create_model(backbone, **arguments)
    if norm == "frozen":
        return freeze_batch_norm_2d(net)
    return batch_norm_to_group_norm(net) if norm == "group" else net


@contextmanager
def _hub_that_fails_fast() -> Iterator[None]:
    """Offline mode for the hub when its host does not answer: its own retries take most of a minute."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    before = constants.HF_HUB_OFFLINE
    if not before and not proxied:
        try:
            socket.create_connection((host, 443), timeout=PROBE_SECONDS).close()
        except OSError:
            constants.HF_HUB_OFFLINE = True  # cached weights still load
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _fingerprint(tensor: Tensor) -> tuple[tuple[int, ...], float]:
    return tuple(tensor.shape), tensor.detach().double().sum().item()


def _check_loaded(
    net: nn.Module, stored: Collection[tuple[tuple[int, ...], float]], path: Path, backbone: str
) -> None:
    """Refuse another network's checkpoint: timm loads backbones non-strictly, so a wrong file would pass."""
    matrices = [p for p in net.parameters() if p.ndim > 1]
    found = sum(_fingerprint(p) in stored for p in matrices)
    if found < len(matrices) / 2:
        raise ValueError(
            f"{path} does not hold the weights of {backbone!r}: {found} of its {len(matrices)} are there"
        )
