"""Draws one portrait and all of its labels from an index.

The picture is painted from back to front. A part that is painted also claims its pixels in the parsing mask
and, where it has one, gives its bounding box, so that the labels say what the picture shows. Left and right
are always those of the picture.

Small, faint things are drawn on purpose: lips, nose, stubble, freckles, the rims of glasses, and the tilt of
brows, lids and mouth corners that tells one expression from another. They are the first to go when bits get
scarce.
"""

import numpy as np

from datamodules.drawing.features import paint_brow, paint_eye, paint_mouth, paint_nose
from datamodules.drawing.head import BOXES, PARTS, POINTS, Head
from datamodules.drawing.parameters import (
    ATTRIBUTES,
    EXPRESSIONS,
    appearance_parameters,
    identity_parameters,
)
from datamodules.drawing.scenes import paint_scene
from datamodules.drawing.skin_and_hair import paint_beard, paint_ears, paint_face, paint_hair, paint_long_hair
from datamodules.drawing.wear import paint_body, paint_earrings, paint_glasses, paint_hat
from datamodules.samples import Label


def _mirror_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs of indices whose names differ in left and right only."""
    others = {name: name.replace("left", "right") for name in names if "left" in name}
    return tuple((names.index(name), names.index(other)) for name, other in others.items())


def labels(num_identities: int) -> dict[str, Label]:
    """The labels of every portrait, by their key in a sample."""
    people = tuple(f"person_{number:03d}" for number in range(num_identities))
    return {
        "class": Label("class", EXPRESSIONS),
        "identity": Label("class", people),
        "attributes": Label("attributes", ATTRIBUTES, _mirror_pairs(ATTRIBUTES)),
        "mask": Label("mask", PARTS, _mirror_pairs(PARTS)),
        "landmarks": Label("landmarks", POINTS, _mirror_pairs(POINTS)),
        "boxes": Label("boxes", BOXES),
    }


def draw(index: int, *, size: int = 64, seed: int = 0, num_identities: int = 40) -> dict[str, np.ndarray]:
    """Draw one head.

    The same arguments give the same bytes in every process. Another NumPy or processor may round a sine
    differently and move a few values by one. Another size gives the same picture at that size.

    Args:
        index: number of the portrait, not negative.
        size: height and width in pixels, from 16 up.
        seed: another seed gives other people, scenes and poses.
        num_identities: how many people there are.

    Returns:
        ``image`` uint8 (3, size, size), RGB; ``mask`` uint8 (size, size), of ``PARTS``; ``class`` and
        ``identity`` int64 (); ``attributes`` int64 (A,), of ``ATTRIBUTES``; ``landmarks`` float32 (P, 2), of
        ``POINTS``, x and y in pixels with pixel centres at integers; ``boxes`` float32 (N, 4): x0, y0, x1,
        y1, the outer edges of the first and last pixels, in pixels from the corner of the picture;
        ``box_class`` int64 (N,), of ``BOXES``.
    """
    appearance, dice = appearance_parameters(index, seed=seed, num_identities=num_identities)
    person = identity_parameters(appearance.identity, seed=seed)
    head = Head(person, appearance, dice, size)
    _paint(head)
    return {
        "image": head.image(),
        "mask": head.canvas.mask,
        "class": np.int64(appearance.expression),
        "identity": np.int64(appearance.identity),
        "attributes": np.array(appearance.attributes, np.int64),
        "landmarks": head.landmarks(),
        "boxes": np.array([box for _, box in head.boxes], np.float32).reshape(-1, 4),
        "box_class": np.array([BOXES.index(name) for name, _ in head.boxes], np.int64),
    }


def _paint(head: Head) -> None:
    """Everything, from back to front."""
    appearance = head.appearance
    paint_scene(head.canvas, appearance.scene, head.dice)
    if appearance.long_hair:
        paint_long_hair(head)
    paint_body(head)
    paint_ears(head)
    paint_face(head)
    if appearance.beard:
        paint_beard(head)
    paint_nose(head)
    paint_mouth(head)
    for side in (0, 1):
        paint_eye(head, side)
        paint_brow(head, side)
    paint_hair(head)
    if appearance.earrings:
        paint_earrings(head)
    if appearance.glasses:
        paint_glasses(head)
    if appearance.hat:
        paint_hat(head)
