"""The one sample dictionary that every data set yields, and the label kinds that tasks can ask for.

A sample is a dict. Only ``image``, ``id`` and ``draw`` are always there; a key the data set does not publish
in ``labels`` is absent, and a published label that one sample lacks holds its *missing* value.

==============  ==============================  =================================  =============
key             one sample                      a batch                            missing
==============  ==============================  =================================  =============
``image``       uint8 (3, H, W), RGB            float (B, 3, H, W) in [0, 1];      never
                                                uint8 until it is transferred
``id``          str, unique in the data set     list of B str                      never
``draw``        int: number of the draw in the  int64 (B,)                         never
                stage (training), or the index
``class`` etc.  int64 scalar                    int64 (B,)                         -1
``mask`` etc.   int64 (H, W), class index       int64 (B, H, W)                    255
``attributes``  int64 (A,), 0 or 1              int64 (B, A)                       -1
``landmarks``   float (P, 2): x, y in pixels    float (B, P, 2)                    nan
``boxes``       float (N, 4): x0, y0, x1, y1    list of B tensors (N_i, 4)         NaN row (1, 4)
                in pixels
``box_class``   int64 (N,)                      list of B tensors (N_i,)           -1, one row
``skipped``     list of str: unreadable files   flat list of str                   empty
                that were stepped over
==============  ==============================  =================================  =============

Landmarks lie at pixel centres: the middle of the first pixel is 0, and a point outside the image keeps its
coordinates there. Boxes have edges: the first pixel spans 0..1, so one pixel is the box x, y, x + 1, y + 1.
An image without boxes has (0, 4) of them, which is not the same as missing. Their key is always ``boxes``.

Unreadable files: in training another sample takes the place, in evaluation the batch is shorter; a batch of
which nothing could be read holds ``skipped`` and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

MISSING = -1
"""Class index, or attribute value, of a sample without that label."""

IGNORE = 255
"""Mask value of pixels that no criterion and no metric looks at."""


@dataclass(frozen=True)
class Label:
    """One kind of label a data set publishes.

    Args:
        kind: ``"class"`` (one of ``names``), ``"mask"`` (one of ``names`` for each pixel), ``"attributes"``
            (a binary value for each of ``names``), ``"landmarks"`` (a point for each of ``names``) or
            ``"boxes"`` (any number of boxes, each of one of ``names``).
        names: what the indices mean, in order.
        mirror: pairs of indices into ``names`` that a horizontal flip exchanges (left eye, right eye).
    """

    kind: Literal["class", "mask", "attributes", "landmarks", "boxes"]
    names: tuple[str, ...]
    mirror: tuple[tuple[int, int], ...] = ()

    @property
    def missing(self) -> float:
        """The value that means "no label here"; tasks ask for it, so that they need no data module."""
        return {"class": MISSING, "attributes": MISSING, "mask": IGNORE}.get(self.kind, float("nan"))
