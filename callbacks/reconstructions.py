"""The same few images at every validation: what they cost, what is left of them, what tasks see in them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.fixed_images import Batch, FixedImages
from callbacks.pictures import show
from callbacks.tiles import Row, Tile, grid, heat
from callbacks.trainer_folder import run_folder, stage_name
from evaluation.devices import moved
from evaluation.report.bits_map import bits_per_pixel
from models.modes import evaluating
from pictures.writing import to_uint8


class Reconstructions(Callback):
    """One picture a validation, a row an image.

    ::

        original │ reconstruction │ error, amplified │ where the bits go │ each ready task's prediction

    Pictures, sizes and predictions are of the decoded file (``real_bytes``) or of the codec's estimate.
    Images, amplification and layout stay the same all through the run, so that one can flip through files.
    The bits map comes from the likelihoods and is left out where a codec has none; its scale is shared by the
    rows.

    Args:
        num_images: images shown, evenly spaced over the validation split.
        folder: where the files go; default: ``reconstructions`` in the run folder.
        real_bytes: code to real files and decode them; costs entropy coding at every validation.
        error_gain: the brightest colour of the error map stands for 255 / this, mean over R, G and B.
        tile: about the longer side of one picture, in pixels.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        num_images: int = 4,
        folder: str | Path | None = None,
        real_bytes: bool = True,
        error_gain: float = 5.0,
        tile: int = 224,
    ):
        for name, value in (("error_gain", error_gain), ("tile", tile)):
            if value <= 0:
                raise ValueError(f"{name}={value} must be above 0")
        self.images = FixedImages(num_images)
        self.folder, self.real_bytes, self.error_gain, self.tile = folder, real_bytes, error_gain, tile

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and show; other ranks do nothing."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        with evaluating(pl_module):
            seen = [self._look(trainer, pl_module, batch) for batch in self.images.load(trainer)]
            if not seen:
                return
            tops = [np.quantile(image.bits_map, 0.995) for image in seen if image.bits_map is not None]
            rows = [self._row(image, float(max(tops, default=0.0))) for image in seen]
        kind = "estimated" if any(image.num_bytes is None for image in seen) else "real files"
        psnrs = [image.psnr for image in seen if image.psnr is not None]
        bpps = [image.bpp for image in seen if image.bpp is not None]
        rate = f"{np.mean(bpps):.3f} bpp ({kind})" if bpps else "no bits are counted"
        subtitle = f"mean of these {len(seen)}: {rate}"
        subtitle += f", PSNR {np.mean(psnrs):.2f} dB" if psnrs else ", no picture is decoded"
        step = pl_module.run_step
        title = f"Stage {pl_module.stage_title or '-'}, step {step}"
        picture, about = grid(title, subtitle, rows, side=self.tile)
        folder = run_folder(trainer).reconstructions if self.folder is None else Path(self.folder)
        name = stage_name(trainer, pl_module)
        show(trainer, "val/reconstructions", picture, folder, step, name=name, about=about | {"step": step})

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Batch) -> "_Seen":
        codec, rate, x = pl_module.subject, pl_module.rate, batch["image"]
        with trainer.precision_plugin.forward_context():
            estimate = pl_module.look(batch)
            output, num_bytes = estimate, None
            if self.real_bytes and codec.codes:
                data = codec.serialise(codec.compress(x, rate)[0])
                # A decode may come back on the CPU; tasks read it where they are.
                output, num_bytes = moved(codec.decompress([codec.parse(data)]), x.device), len(data)
            tasks = {name: task for name, task in pl_module.tasks.items() if name in pl_module.judged}
            preds = {name: task.predict(output) for name, task in tasks.items()}
        original = to_uint8(x[0])
        decoded = None if output.x_hat is None else to_uint8(output.x_hat[0])
        drawn = {}
        for name, task in tasks.items():
            canvas = original if decoded is None else decoded
            if task.has_target(batch):
                decided = task.decide(preds[name], output.size)[0]
                drawn[name] = task.illustrate(canvas, decided, task.target_of(batch)[0])
            else:
                drawn[name] = canvas, "no labels in this data set"
        bpp = None if estimate.bpp is None else float(estimate.bpp[0])
        return _Seen(
            name=str(batch["id"][0]),
            original=original,
            decoded=decoded,
            num_bytes=num_bytes,
            bpp=bpp if num_bytes is None else 8 * num_bytes / (output.size[0] * output.size[1]),
            psnr=_psnr(original, decoded) if decoded is not None and codec.reconstructs else None,
            bits_map=bits_per_pixel(estimate, codec.stride) if estimate.likelihoods else None,
            drawn=drawn,
        )

    def _row(self, image: "_Seen", top: float) -> Row:
        height, width = image.original.shape[:2]
        tiles = [Tile("original", image.original, f"{width}x{height}")]
        if image.decoded is not None:
            figures = [f"{image.bpp:.3f} bpp"] if image.bpp is not None else []
            figures += [f"{image.psnr:.2f} dB"] if image.psnr is not None else []
            tiles.append(Tile("reconstruction", image.decoded, ", ".join(figures)))
        if image.psnr is not None:
            error = np.abs(image.original.astype(np.int16) - image.decoded).mean(-1)
            white = 255 / self.error_gain
            name = f"error, {self.error_gain:g} times"
            tiles.append(Tile(name, heat(error, white), top=white, unit="of 255"))
        if image.bits_map is not None:
            tiles.append(Tile("bits", heat(image.bits_map, top), top=top, unit="bit/pixel"))
        tiles += [Tile(f"task: {name}", *drawn) for name, drawn in image.drawn.items()]
        paid = f"{image.num_bytes} bytes" if image.num_bytes is not None else "estimated"
        parts = [f"{image.bpp:.3f} bpp ({paid})"] if image.bpp is not None else []
        parts += [f"PSNR {image.psnr:.2f} dB"] if image.psnr is not None else []
        parts += [f"{name}: {caption}" for name, (_, caption) in image.drawn.items()]
        facts = {"id": image.name, "bpp": image.bpp, "num_bytes": image.num_bytes, "psnr": image.psnr}
        return Row(image.name, ",   ".join(parts), tiles, facts)


@dataclass
class _Seen:
    """What is known about one image after coding it."""

    name: str
    original: np.ndarray
    decoded: np.ndarray | None
    num_bytes: int | None
    bpp: float | None
    psnr: float | None
    bits_map: np.ndarray | None
    drawn: dict[str, tuple[np.ndarray, str]]


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR of two 8-bit pictures in dB; 100 where they are equal."""
    mse = np.mean((a.astype(np.float64) - b) ** 2) / 255**2
    return float(-10 * np.log10(max(mse, 1e-10)))
