"""Nose, mouth, eyes and brows: small parts, some of them faint, that expressions are made of."""

import numpy as np

from datamodules.drawing.canvas import between, edge, ellipse_distance
from datamodules.drawing.head import PART, Head


def paint_nose(head: Head) -> None:
    """Shading and a highlight; no outline."""
    nose, skin = head.nose, np.asarray(head.person.skin, np.float32)
    top = head.eyes[0].v + 0.02
    middle = (top + nose.v) / 2
    window = head.canvas.window(nose.u, middle, nose.half_width + 0.06, (nose.v - top) / 2 + 0.1)
    u, v = window.u - nose.u, window.v
    down = np.clip((v - top) / np.float32(nose.v - top), 0, 1)
    # The bridge widens into the wings, below which there is a soft shadow.
    width = nose.half_width * (0.42 + 0.58 * down**2.5)
    lower = nose.v + 0.055 - 0.45 * u * u / np.float32(nose.half_width)
    coverage = np.minimum(edge(np.abs(u) - width, head.pixel), between(v, top, lower, head.pixel))
    side = np.clip(-u * np.float32(np.sign(head.appearance.light[0]) / nose.half_width), -1, 1)
    head.canvas.paint(window, (0.05 + 0.11 * np.maximum(side, 0)) * coverage, 0.35 * skin)
    head.canvas.claim(window, coverage, PART["nose"])
    bridge = np.clip(1 - np.abs(u) * np.float32(2.5 / nose.half_width), 0, 1) * coverage
    head.canvas.paint(window, 0.22 * bridge * down, (1.0, 0.93, 0.88))
    below = np.clip(1 - np.abs(v - lower - 0.01) * np.float32(1 / 0.06), 0, 1)
    below *= edge(np.abs(u) - nose.half_width, head.pixel)
    head.canvas.paint(window, 0.38 * below, 0.3 * skin)
    for side_u in (-0.5, 0.5):
        distance = ellipse_distance(u - side_u * nose.half_width, v - nose.v - 0.02, 0.032, 0.024)
        head.canvas.paint(window, 0.6 * edge(distance, head.pixel), 0.2 * skin)


def paint_mouth(head: Head) -> None:
    """Lips around a line or an open mouth, its corners up or down."""
    mouth, person = head.mouth, head.person
    corner, gap = head.appearance.mouth_corner, head.appearance.mouth_gap
    reach = abs(corner) + gap + person.lip_height + 0.04
    window = head.canvas.window(mouth.u, mouth.v, mouth.half_width + 0.03, reach)
    t = (window.u - mouth.u) * np.float32(1 / mouth.half_width)
    bow = 1 - t * t
    middle = mouth.v + corner * (bow - 0.6)
    inner_top, inner_bottom = middle - gap / 2 * bow, middle + gap / 2 * bow
    # The upper lip dips in its middle.
    dip = 1 - 0.3 * np.maximum(1 - 5 * np.abs(t), 0)
    top, bottom = inner_top - 0.8 * person.lip_height * bow * dip, inner_bottom + person.lip_height * bow
    light = head.light[window.slices]
    lips = np.asarray(person.lips, np.float32)[:, None, None] * (0.25 + 0.7 * light)
    coverage = between(window.v, top, bottom, head.pixel) * (np.abs(t) < 1)
    head.canvas.paint(window, coverage, lips, PART["mouth"])
    head.add_box("mouth", window, coverage)
    shine = between(
        window.v,
        inner_bottom + 0.4 * person.lip_height * bow,
        bottom - 0.25 * person.lip_height,
        head.pixel,
    )
    head.canvas.paint(window, 0.2 * shine * coverage, (1.0, 0.9, 0.88))
    if gap:
        inside = between(window.v, inner_top, inner_bottom, head.pixel) * (np.abs(t) < 1)
        head.canvas.paint(window, inside, (0.22, 0.06, 0.07))
        teeth = between(window.v, inner_top, inner_top + 0.45 * gap * bow, head.pixel) * (np.abs(t) < 0.8)
        head.canvas.paint(window, 0.9 * teeth, (0.93, 0.91, 0.86))
    line = between(window.v, inner_top - 0.018, inner_top + 0.018, head.pixel) * (np.abs(t) < 1.04)
    head.canvas.paint(window, 0.8 * line, tuple(0.28 * c for c in person.skin))


def paint_eye(head: Head, side: int) -> None:
    """One eye (side 0: left in the picture) with its lids."""
    eye, person, opening = head.eyes[side], head.person, head.appearance.lid_opening
    window = head.canvas.window(eye.u, eye.v, eye.half_width + 0.05, 0.24)
    u, v = window.u - eye.u, window.v - eye.v
    t = u * np.float32(1 / eye.half_width)
    bow = 1 - t * t
    upper, lower = -1.15 * opening * bow, 0.75 * opening * bow + 0.012
    within = np.abs(t) < 1
    socket = np.maximum(1 - (t / np.float32(1.25)) ** 2 - (v * np.float32(1 / 0.19)) ** 2, 0)
    head.canvas.paint(window, 0.22 * socket, tuple(0.45 * c for c in person.skin))
    coverage = between(v, upper, lower, head.pixel) * within
    head.canvas.paint(window, coverage, (0.93, 0.92, 0.90))
    across = u - head.appearance.gaze
    distance = np.sqrt(across * across + v * v)
    iris = edge(distance - 0.088, head.pixel) * coverage
    head.canvas.paint(window, iris, person.eyes)
    head.canvas.paint(window, edge(distance - 0.042, head.pixel) * coverage, (0.03, 0.03, 0.04))
    glint = edge(np.sqrt((across + 0.03) ** 2 + (v + 0.035) ** 2) - 0.02, head.pixel)
    head.canvas.paint(window, 0.9 * glint * iris, (1.0, 1.0, 1.0))
    lash = between(v, upper - 0.032, upper + 0.008, head.pixel) * (np.abs(t) < 1.05)
    head.canvas.paint(window, 0.85 * lash, tuple(0.22 * c for c in person.skin))
    crease = between(v, upper - 0.095, upper - 0.07, head.pixel) * within
    head.canvas.paint(window, 0.4 * crease, tuple(0.4 * c for c in person.skin))
    head.canvas.claim(window, coverage, PART[("left_eye", "right_eye")[side]])
    head.add_box("eye", window, coverage)


def paint_brow(head: Head, side: int) -> None:
    """One brow (side 0: left in the picture)."""
    brow, person = head.brows[side], head.person
    window = head.canvas.window(brow.u, brow.v, brow.half_width + 0.03, 0.24)
    # t runs from the outer end, -1, to the inner end, 1.
    t = (window.u - brow.u) * np.float32((1 if side == 0 else -1) / brow.half_width)
    middle = brow.v - head.appearance.brow_slant * t - 0.035 * (1 - t * t)
    taper = np.clip(1.15 - t * t * t * t, 0, 1) * (np.abs(t) < 1)
    thickness = person.brow_thickness * (0.55 + 0.2 * t) * taper
    coverage = between(window.v, middle - thickness, middle + thickness, head.pixel)
    colour = tuple(0.35 * s + 0.22 * h for s, h in zip(person.skin, person.hair, strict=True))
    hairs = 1 - 0.25 * np.abs(head.strands[window.slices])
    head.canvas.paint(window, 0.88 * coverage * hairs, colour)
    # The brow is where its shape is, however thin its hairs.
    head.canvas.claim(window, coverage, PART[("left_brow", "right_brow")[side]])
