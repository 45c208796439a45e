"""MobileStyleGAN's published weights, from the package that holds them to a file of ours.

python -m models.stylegan2.convert_mobile PACKAGE -o FILE.safetensors

PACKAGE is the folder ``random_face/data`` of the package ``random-face`` (``pip download --no-deps random-face``, then
unpacked; it need not be installed): MappingNetwork.xml/.bin and SynthesisNetwork.xml/.bin, as OpenVINO writes networks.
No code of it is run, OpenVINO is not needed. The package's code is under Apache-2.0; its weights were distilled from
NVIDIA's StyleGAN2 weights for FFHQ, which are for research and evaluation: keep the file, and what holds it, to that.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from models.stylegan2.mobile import MobileStyleGAN, MobileSynthesis

ORIGIN = {
    "origin": "package random-face: MobileStyleGAN (https://arxiv.org/abs/2104.04767) of StyleGAN2 on FFHQ",
    "licence": "code of the package Apache-2.0; weights derive from NVIDIA's: research and evaluation only",
}
"""What is written into the file."""


def constants(xml: Path) -> list[tuple[str, Tensor]]:
    """(name, value) of a network's float constants, in the file's order.

    Args:
        xml: description of the network; its weights lie beside it, in ``.bin``.

    Raises:
        ValueError: a file is missing, no such description, or shorter than it says.
    """
    weights = xml.with_suffix(".bin")
    if missing := [path for path in (xml, weights) if not path.is_file()]:
        raise ValueError(
            f"there is no file {missing[0]}: give the folder random_face/data of the package random-face"
        )
    try:
        layers = ElementTree.parse(xml).getroot().find("layers")
    except ElementTree.ParseError as error:
        raise ValueError(f"{xml} is no network of OpenVINO's: {error}") from error
    if layers is None:
        raise ValueError(f"{xml} is no network of OpenVINO's: it has no layers")
    data = weights.read_bytes()
    found = []
    for layer in layers:
        about = layer.find("data")
        if layer.get("type") != "Const" or about is None or about.get("element_type") != "f32":
            continue
        shape = tuple(int(side) for side in about.get("shape", "").split(",") if side.strip())
        start, size = int(about.get("offset", 0)), int(about.get("size", 0))
        if start + size > len(data) or size != 4 * int(np.prod(shape)):
            raise ValueError(f"{weights} ends before {layer.get('name')}: the package's files are damaged")
        values = np.frombuffer(data, np.float32, size // 4, start).reshape(shape)
        found.append((str(layer.get("name")), torch.from_numpy(values.copy())))
    return found


def converted(folder: Path, generator: MobileStyleGAN) -> dict[str, Tensor]:
    """The state dict of a generator of the published shape, but for its heads and mean style.

    Raises:
        ValueError: the folder holds something else than expected; the message says what.
    """
    state = dict(generator.state_dict())
    mapping = [
        value for _, value in constants(folder / "MappingNetwork.xml") if value.dim() and value.numel() > 1
    ]
    layers = generator.mapping.layers
    if len(mapping) != 2 * len(layers):
        raise ValueError(f"the mapping network has {len(mapping)} tensors, {2 * len(layers)} were expected")
    for i, layer in enumerate(layers):
        # Stored as it is multiplied with; here the factors stand apart.
        factor = layer.lr_multiplier / layer.weight.shape[1] ** 0.5
        _put(state, f"mapping.layers.{i}.weight", mapping[2 * i] / factor)
        _put(state, f"mapping.layers.{i}.bias", mapping[2 * i + 1] / layer.lr_multiplier)

    order = constants(folder / "SynthesisNetwork.xml")
    named, before = dict(order), {name: order[i - 1][1] for i, (name, _) in enumerate(order)}

    def take(name: str) -> Tensor:
        if name not in named:
            raise ValueError(
                f"SynthesisNetwork.xml has no constant {name!r}: it is not the network that was expected"
            )
        return named[name]

    def style(ours: str, theirs: str, factor: float) -> None:
        # Styles are multiplied by the equalised weights' factor: that is put into their own layer.
        _put(state, f"synthesis.{ours}.weight", take(f"{theirs}.modulation.weight") * factor)
        _put(state, f"synthesis.{ours}.bias", take(f"{theirs}.modulation.bias") * factor)

    def noise_and_bias(ours: str, theirs: str) -> None:
        _put(state, f"synthesis.{ours}bias", take(f"{theirs}.bias"))
        _put(state, f"synthesis.{ours}noise", before[f"{theirs}.bias"])

    synthesis = generator.synthesis
    _put(state, "synthesis.const", take("m.input.input"))
    style("start_style", "m.conv1.conv", 1 / (9 * len(synthesis.const)) ** 0.5)
    _put(state, "synthesis.start", take("Mul_39_copy"))
    noise_and_bias("start_", "m.conv1")
    for i, layer in enumerate(synthesis.layers):
        style(f"layers.{i}.up", f"m.layers.{i}.up", 1.0)
        for name, number in (("conv1", 106), ("conv2", 139)):
            ours, theirs = f"layers.{i}.{name}", f"m.layers.{i}.{name}"
            channels = len(getattr(layer, name).depthwise)
            style(f"{ours}.style", f"{theirs}.conv", 1 / (9 * channels) ** 0.5)
            _put(state, f"synthesis.{ours}.depthwise", take(f"{theirs}.conv.weight_dw"))
            _put(state, f"synthesis.{ours}.pointwise", take(f"Mul_{100 * i + number}_copy"))
            noise_and_bias(f"{ours}.", theirs)
    last = len(synthesis.layers) - 1
    style("image_style", f"m.layers.{last}.to_img.conv", 1 / synthesis.to_image.weight.shape[1] ** 0.5)
    _put(state, "synthesis.to_image.weight", take(f"m.layers.{last}.to_img.conv.weight"))
    _put(state, "synthesis.to_image.bias", take(f"m.layers.{last}.to_img.bias"))
    return state


@torch.no_grad()
def fit_heads(generator: MobileStyleGAN, samples: int) -> dict[int, float]:
    """Fit the heads of the cut sizes, in place, to the means of whole pictures: least squares over drawn faces.

    Args:
        generator: with weights, in evaluation mode, its heads zero.
        samples: faces to draw.

    Returns:
        {size: PSNR of the cut pictures of as many faces as a quarter of that, not among those}, in dB.
    """
    synthesis: MobileSynthesis = generator.synthesis
    sums = {size: [0.0, 0.0] for size in synthesis.sizes[:-2]}
    errors = dict.fromkeys(sums, 0.0)
    judges = max(1, samples // 4)
    for number in range(samples + judges):
        keys = torch.tensor([number * 2654435761 % 2**32])
        styles = generator.draw_styles(keys)
        whole = synthesis.picture(styles, synthesis.sizes[-2], "fixed", None).clamp(-1, 1)
        for size in sums:
            wanted = F.avg_pool2d(whole, whole.shape[-1] // size)[0].flatten(1).double()  # (3, n)
            if number < samples:
                wanted = wanted - synthesis.picture(styles, size, "fixed", None)[0].flatten(1)
                x = F.unfold(synthesis.features(styles, size, True), 3, padding=1)[0].double()
                x = torch.cat([x, x.new_ones(1, x.shape[1])])
                sums[size][0] = sums[size][0] + x @ x.T
                sums[size][1] = sums[size][1] + x @ wanted.T
            else:
                error = (synthesis.picture(styles, size, "fixed", None)[0].flatten(1) - wanted) / 2
                errors[size] += error.square().mean().item() / judges
        if number == samples - 1:
            for size, (products, targets) in sums.items():
                ridge = 1e-6 * products.diagonal().mean() * torch.eye(len(products), dtype=torch.float64)
                solved = torch.linalg.solve(products + ridge, targets).T.float()
                kernel = getattr(synthesis, f"head_{size}")
                kernel.copy_(solved[:, :-1].reshape(kernel.shape))
                getattr(synthesis, f"head_bias_{size}").copy_(solved[:, -1])
    return {size: -10 * float(np.log10(error)) for size, error in errors.items()}


def _put(state: dict[str, Tensor], key: str, value: Tensor) -> None:
    wanted = tuple(state[key].shape)
    if value.numel() != state[key].numel():
        raise ValueError(
            f"{key}: the package has {tuple(value.shape)}, the published network {wanted}: it is another network"
        )
    state[key] = value.reshape(wanted)


def main(arguments: Sequence[str]) -> int:
    """The command; a mistake is one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m models.stylegan2.convert_mobile",
        description="MobileStyleGAN's weights to a file of ours.",
    )
    parser.add_argument("folder", type=Path, help="random_face/data of the package random-face")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the file to write, .safetensors")
    parser.add_argument(
        "--samples", type=int, default=48, help="faces to fit the heads of small sizes to (default 48)"
    )
    options = parser.parse_args(arguments)
    try:
        if options.samples < 1:
            raise ValueError(f"--samples {options.samples} must be at least 1")
        generator = MobileStyleGAN().eval()
        generator.load_state_dict(converted(options.folder, generator))
        generator.synthesis.w_mean.copy_(generator.mapping.mean())
        for size, quality in fit_heads(generator, options.samples).items():
            print(f"{size:5} px: {quality:.1f} dB to the whole picture's mean")
        save_file(generator.state_dict(), options.out, metadata=ORIGIN)
    except (ValueError, OSError) as error:
        print(f"convert_mobile: error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}\n{ORIGIN['licence']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
