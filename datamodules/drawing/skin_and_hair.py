"""Face, ears, freckles, beard and hair."""

import numpy as np

from datamodules.drawing.canvas import box_distance, edge, ellipse_distance
from datamodules.drawing.head import PART, Head


def paint_face(head: Head) -> None:
    """Skin with a darker rim, blush and perhaps freckles."""
    window = head.canvas.everything
    person, u, v = head.person, head.canvas.u, head.canvas.v
    head.canvas.paint(window, head.face, head.skin_colour(window), PART["skin"])
    head.add_box("face", window, head.face)
    rim = head.face * np.clip(1 + head.face_distance / np.float32(0.22), 0, 1)
    head.canvas.paint(window, 0.16 * rim * rim, (0.2, 0.08, 0.05))
    for eye in head.eyes:
        cheek = (u - 1.1 * eye.u) ** 2 + (v - 0.33 - head.appearance.pitch) ** 2
        blush = np.maximum(1 - cheek * np.float32(1 / 0.06), 0)
        head.canvas.paint(window, 0.16 * blush * head.face, (0.85, 0.30, 0.25))
    if head.appearance.freckles:
        _paint_freckles(head)
    head.canvas.paint(window, 0.05 * head.face * head.grain, person.lips)


def _paint_freckles(head: Head) -> None:
    """Specks on the cheeks and the bridge of the nose, each fainter than the shading around it."""
    colour = tuple(0.62 * c * f for c, f in zip(head.person.skin, (1.0, 0.85, 0.75), strict=True))
    middle = (head.eyes[0].u + head.eyes[1].u) / 2
    for u, v, radius in head.dice.values(3 * 20).reshape(20, 3).tolist():
        u = middle + (1.04 * u - 0.52) * head.person.face_width
        v = 0.21 + head.appearance.pitch + 0.26 * v - 0.13
        radius = 0.016 + 0.012 * radius
        window = head.canvas.window(u, v, radius, radius)
        distance = np.sqrt((window.u - u) ** 2 + (window.v - v) ** 2) - radius
        # A speck smaller than a pixel darkens it by the part that it covers.
        soft = max(head.pixel, 0.5 * radius)
        strength = 0.75 * min(1.0, 3.14 * (radius / soft) ** 2)
        head.canvas.paint(window, strength * edge(distance + radius - max(radius, soft / 2), soft), colour)


def paint_ears(head: Head) -> None:
    """Both ears; the face, painted later, hides a part of the far one."""
    person, yaw = head.person, head.appearance.yaw
    for side, part in ((-1, "left_ear"), (1, "right_ear")):
        # Turning the head draws the far ear in behind the cheek.
        u = side * (person.face_width + 0.04) - 0.22 * max(0.0, side * yaw) * side
        window = head.canvas.window(u, 0.02, person.ear_size, 0.3)
        distance = ellipse_distance(window.u - u, window.v - 0.02, person.ear_size * 0.8, 0.24)
        head.canvas.paint(window, edge(distance, head.pixel), 0.92 * head.skin_colour(window), PART[part])
        head.canvas.paint(window, 0.45 * edge(distance + 0.07, 0.06), person.lips)


def paint_beard(head: Head) -> None:
    """Hair on chin, jaw and upper lip, with a ragged, translucent edge."""
    window = head.canvas.everything
    v = head.canvas.v
    start = head.mouth.v - 0.20 - 0.36 * head.across * head.across
    depth = (v - start) * np.float32(6) + 0.7 * head.grain + 0.35 * head.strands
    coverage = head.face * np.clip(depth, 0, 1)
    density = head.dice.between(0.5, 0.92)
    head.canvas.paint(window, density * coverage, head.hair_colour(window, 0.8))
    head.canvas.claim(window, coverage, PART["beard"])


def paint_long_hair(head: Head) -> None:
    """Hair that falls behind ears and neck; clothes and face are painted over it."""
    window = head.canvas.everything
    person, u, v = head.person, head.canvas.u, head.canvas.v
    width = person.face_width + person.hair_volume + 0.10
    wave = 0.05 * person.curl * np.sin(7 * v) * np.sign(u)
    lower = head.dice.between(1.15, 1.7)
    distance = box_distance(u + wave, v - (lower - 1.1) / 2, width, (lower + 1.1) / 2, corner=0.62 * width)
    coverage = edge(distance + 0.03 * head.strands, head.pixel)
    head.canvas.paint(window, coverage, head.hair_colour(window, 0.72), PART["hair"])


def paint_hair(head: Head) -> None:
    """Hair on top of the head, and its shadow on the forehead."""
    window = head.canvas.everything
    person, u, v = head.person, head.canvas.u, head.canvas.v
    width, top = person.face_width + 0.55 * person.hair_volume, 1.02 + person.hair_volume
    outer = ellipse_distance(u, v - 0.02, width + 0.02, top) + 0.02 * head.strands
    # The hair falls away from the parting, but stops above the brows; at the temples it reaches the ears.
    fall = (head.across - 0.5 * person.parting) ** 2
    line = person.hairline + 0.6 * fall * fall
    temple = np.minimum(np.maximum((np.abs(head.across) - 0.84) * 9, 0), 1)
    line = np.minimum(line, -0.50) + 0.46 * temple + 0.025 * head.strands
    coverage = np.minimum(edge(outer, head.pixel), edge(v - line, head.pixel))
    shadow = np.minimum(head.face, np.clip(1 - (v - line) / np.float32(0.16), 0, 1))
    head.canvas.paint(window, 0.22 * shadow, (0.1, 0.05, 0.05))
    head.canvas.paint(window, coverage, head.hair_colour(window), PART["hair"])
