"""Distortion: how far the decoded picture is from the original. One unweighted term each, mean over the batch."""

from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from losses.term import Term
from models.outputs import CodecOutput

MS_SSIM_MIN_SIDE = 176
"""Five scales of an 11-tap window: a sixteenth of each side must exceed 10 pixels."""


class MSE(Term):
    """Mean squared error on the scale of 8-bit values: 255**2 * mean((x_hat - x)**2).

    The scale is CompressAI's, so that its lambdas keep their meaning.
    """

    reads = ("pixels",)

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        return 255**2 * (output.x_hat.float() - batch["image"]).square().mean()


class Charbonnier(Term):
    """A smooth mean absolute error on the scale of 8-bit values: mean(sqrt((255 (x_hat - x))**2 + eps**2) - eps).

    Args:
        eps: in 8-bit levels: differences well below it count by their square.

    Raises:
        ValueError: ``eps`` is not positive.

    Reference: Charbonnier et al., Two deterministic half-quadratic regularization algorithms for computed imaging, ICIP
    1994. Differs from the paper: ``eps`` is taken off, so that equal pictures are at 0.
    """

    reads = ("pixels",)

    def __init__(self, eps: float = 0.255):
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps={eps} must be positive")
        self.eps = eps

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar >= 0."""
        levels = 255 * (output.x_hat.float() - batch["image"])
        return ((levels.square() + self.eps**2).sqrt() - self.eps).mean()


class MSSSIM(Term):
    """1 - MS-SSIM, in [0, 1]. Both sides of the image need 176 pixels at least (five scales, 11 taps).

    Reference: Wang et al., Multiscale structural similarity for image quality assessment, Asilomar 2003.
    """

    reads = ("pixels",)

    def forward(self, output: CodecOutput, batch: dict) -> Tensor:
        """Scalar in [0, 1].

        Raises:
            ValueError: the image is too small.
        """
        if min(output.size) < MS_SSIM_MIN_SIDE:
            raise ValueError(
                f"MS-SSIM needs sides of {MS_SSIM_MIN_SIDE} pixels, these images are {output.size}: use larger crops"
            )
        return 1 - multiscale_structural_similarity_index_measure(
            output.x_hat.float(), batch["image"], data_range=1.0
        )
