"""How the entropy models of CompressAI's image codecs are walked: what is coded in which order under which parameters.

One walk serves both directions (models/entropy/stream.py). It reads the weights of CompressAI's modules and none of
their coding: networks run in integer-valued arithmetic, strings are ours. One function a class; a model or latent codec
that is no subclass of these needs a function of its own.
"""

import math
from functools import partial, singledispatchmethod

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    EntropyBottleneckLatentCodec,
    GaussianConditionalLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.models import (
    FactorizedPrior,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
    ScaleHyperprior,
    SimpleVAECompressionModel,
)
from compressai.models.vbr import (
    JointAutoregressiveHierarchicalPriorsVbr,
    MeanScaleHyperpriorVbr,
    ScaleHyperpriorVbr,
)
from torch import Tensor, nn

from models.entropy.checkerboard import context_at, put, take
from models.entropy.coder import TableCache
from models.entropy.exact import Exact
from models.entropy.factorized import channel_rows
from models.entropy.quantisation_step import Gaussian, code_with_gain
from models.entropy.scale_index import Rounding, ScaleIndex
from models.entropy.serial_context import code_serially
from models.entropy.stream import Stream

Shape = tuple[int, int]


class Walk:
    """Codes y with a CompressAI model.

    Args:
        rounding: of scales to the table, see ``ScaleIndex``.
    """

    def __init__(self, rounding: Rounding = "nearest"):
        self.exact, self.scale_index, self.tables = Exact(), ScaleIndex(rounding), TableCache()

    def estimates(self, model: nn.Module) -> bool:
        """Whether a model's own ``forward`` estimates what is coded: not with a serial context, which it runs on
        round(y), for in coding each y_hat depends on those before it.
        """
        return not isinstance(model, JointAutoregressiveHierarchicalPriors)

    # -- models: (stream, y or None, (h, w) of y) -> y_hat -----------------------------------------------------------

    @singledispatchmethod
    def code(self, model: nn.Module, stream: Stream, y: Tensor | None, shape: Shape) -> Tensor:
        """Write y (B, M, h, w) to a stream, or read it (y is ``None``).

        Raises:
            ValueError: a kind of model that has no walk.
        """
        raise ValueError(
            f"{type(model).__name__} cannot be coded: models/entropy/compressai_models.py has no walk for its class"
        )

    @code.register
    def _(self, model: FactorizedPrior, stream: Stream, y: Tensor | None, shape: Shape) -> Tensor:
        return self._factorised(model.entropy_bottleneck, stream, y, shape)

    @code.register
    def _(self, model: ScaleHyperprior, stream: Stream, y: Tensor | None, shape: Shape) -> Tensor:
        z = None if y is None else model.h_a(y.abs())
        scale = self._side(model.h_a, model.entropy_bottleneck, model.h_s, stream, z, shape)
        return self.gaussian(model.gaussian_conditional, stream, y, scale, torch.zeros_like(scale))

    @code.register
    def _(self, model: MeanScaleHyperprior, stream: Stream, y: Tensor | None, shape: Shape) -> Tensor:
        z = None if y is None else model.h_a(y)
        side = self._side(model.h_a, model.entropy_bottleneck, model.h_s, stream, z, shape)
        return self.gaussian(model.gaussian_conditional, stream, y, *side.chunk(2, 1))

    @code.register
    def _(
        self, model: JointAutoregressiveHierarchicalPriors, stream: Stream, y: Tensor | None, shape: Shape
    ) -> Tensor:
        z = None if y is None else model.h_a(y)
        return code_serially(
            stream,
            y,
            self._side(model.h_a, model.entropy_bottleneck, model.h_s, stream, z, shape),
            context=model.context_prediction,
            parameters=model.entropy_parameters,
            gaussian=partial(self.gaussian, model.gaussian_conditional),
            exact=self.exact,
        )

    # Of variable rate: of one of their levels or a gain between them.

    @code.register
    def _(
        self, model: ScaleHyperpriorVbr, stream: Stream, y: Tensor | None, shape: Shape, gain: float
    ) -> Tensor:
        z = None if y is None else model.h_a(y.abs())
        scale = self._side(model.h_a, model.entropy_bottleneck, model.h_s, stream, z, shape)
        return self._with_gain(model, gain)(stream, y, scale, torch.zeros_like(scale))

    @code.register
    def _(
        self, model: MeanScaleHyperpriorVbr, stream: Stream, y: Tensor | None, shape: Shape, gain: float
    ) -> Tensor:
        z = None if y is None else model.h_a(y)
        side = self._side(model.h_a, model.entropy_bottleneck, model.h_s, stream, z, shape)
        return self._with_gain(model, gain)(stream, y, *side.chunk(2, 1))

    @code.register
    def _(
        self,
        model: JointAutoregressiveHierarchicalPriorsVbr,
        stream: Stream,
        y: Tensor | None,
        shape: Shape,
        gain: float,
    ) -> Tensor:
        z = None if y is None else model.h_a(y)
        side = self._side(model.h_a, model.entropy_bottleneck, model.h_s, stream, z, shape)
        return code_serially(
            stream,
            y,
            side,
            context=model.context_prediction,
            parameters=model.entropy_parameters,
            gaussian=self._with_gain(model, gain),
            exact=self.exact,
            shift=self.exact(model.scale_to_context, side.new_tensor([gain])) if model.scl2ctx else None,
        )

    def _with_gain(self, model: ScaleHyperpriorVbr, gain: float) -> Gaussian:
        return partial(
            code_with_gain,
            gain=gain,
            gaussian=partial(self.gaussian, model.gaussian_conditional),
            offsets=None if model.no_quantoffset else model.QuantABCD,
            least=float(model.gaussian_conditional.lower_bound_scale.bound),
            exact=self.exact,
        )

    @code.register
    def _(self, model: SimpleVAECompressionModel, stream: Stream, y: Tensor | None, shape: Shape) -> Tensor:
        return self._part(model.latent_codec, stream, y, shape, None)

    # -- latent codecs: the same, given what was decoded before them ---------------------------------------------------

    @singledispatchmethod
    def _part(
        self, part: nn.Module, stream: Stream, y: Tensor | None, shape: Shape, given: Tensor | None
    ) -> Tensor:
        raise ValueError(
            f"{type(part).__name__} cannot be coded: models/entropy/compressai_models.py has no walk for its class"
        )

    @_part.register
    def _(
        self,
        part: EntropyBottleneckLatentCodec,
        stream: Stream,
        y: Tensor | None,
        shape: Shape,
        given: Tensor | None,
    ) -> Tensor:
        return self._factorised(part.entropy_bottleneck, stream, y, shape)

    @_part.register
    def _(
        self,
        part: GaussianConditionalLatentCodec,
        stream: Stream,
        y: Tensor | None,
        shape: Shape,
        given: Tensor | None,
    ) -> Tensor:
        scale, mean = part._chunk(self.exact(part.entropy_parameters, given))
        mean = torch.zeros_like(scale) if mean is None else mean
        return self.gaussian(part.gaussian_conditional, stream, y, scale, mean)

    @_part.register
    def _(
        self,
        part: HyperpriorLatentCodec,
        stream: Stream,
        y: Tensor | None,
        shape: Shape,
        given: Tensor | None,
    ) -> Tensor:
        hyper = part.latent_codec["hyper"]
        z = None if y is None else hyper.h_a(y)
        side = self._side(hyper.h_a, hyper.entropy_bottleneck, hyper.h_s, stream, z, shape)
        return self._part(part.latent_codec["y"], stream, y, shape, side)

    @_part.register
    def _(
        self,
        part: ChannelGroupsLatentCodec,
        stream: Stream,
        y: Tensor | None,
        shape: Shape,
        given: Tensor | None,
    ) -> Tensor:
        groups = [None] * len(part.groups) if y is None else y.split(part.groups, dim=1)
        y_hat: list[Tensor] = []
        for number, group in enumerate(groups):
            side = given
            if number:
                context = self.exact(part.channel_context[f"y{number}"], part.merge_y(*y_hat))
                side = part.merge_params(context, given)
            y_hat.append(self._part(part.latent_codec[f"y{number}"], stream, group, shape, side))
        return torch.cat(y_hat, dim=1)

    @_part.register
    def _(
        self,
        part: CheckerboardLatentCodec,
        stream: Stream,
        y: Tensor | None,
        shape: Shape,
        given: Tensor | None,
    ) -> Tensor:
        first = int(part.anchor_parity == "odd")
        layer = self.exact.copy_of(part.context_prediction)
        half = shape[0], shape[1] // 2
        context = given.new_zeros(len(given), layer.out_channels, *half)
        y_hat = given.new_zeros(len(given), layer.in_channels, *shape, dtype=torch.float32)
        for parity in (first, 1 - first):
            # The anchors see nothing; the others see the anchors around them, and those alone.
            if parity != first:
                context = context_at(layer, y_hat, parity)
            parameters = self.exact(part.entropy_parameters, part.merge(context, take(given, parity)))
            part_of_y = None if y is None else take(y, parity)
            put(y_hat, self._part(part.latent_codec["y"], stream, part_of_y, half, parameters), parity)
        return y_hat

    # -- what they are made of -----------------------------------------------------------------------------------------

    def _factorised(self, model: EntropyBottleneck, stream: Stream, y: Tensor | None, shape: Shape) -> Tensor:
        medians = model.quantiles[:, 0, 1].detach()[None, :, None, None]
        return stream.code(y, medians, channel_rows(stream.count, model.channels, shape), self.tables(model))

    def _side(
        self,
        h_a: nn.Module,
        bottleneck: EntropyBottleneck,
        h_s: nn.Module,
        stream: Stream,
        z: Tensor | None,
        shape: Shape,
    ) -> Tensor:
        """Code z; what h_s makes of it."""
        stride = math.prod(layer.stride[0] for layer in h_a.modules() if isinstance(layer, nn.Conv2d))
        z_hat = self._factorised(bottleneck, stream, z, (shape[0] // stride, shape[1] // stride))
        return self.exact(h_s, z_hat)

    def gaussian(
        self, model: GaussianConditional, stream: Stream, y: Tensor | None, scale: Tensor, mean: Tensor
    ) -> Tensor:
        """Code y under Gaussians of these scales and means, float64, its shape; y_hat, float32."""
        rows = self.scale_index(scale, model.scale_table)
        return stream.code(y, mean.float(), rows, self.tables(model))
