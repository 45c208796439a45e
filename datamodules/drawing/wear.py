"""Neck and clothes, earrings, glasses and hats."""

import numpy as np

from datamodules.drawing.canvas import NOISES, between, box_distance, edge, ellipse_distance, stripes
from datamodules.drawing.head import PART, Head


def paint_body(head: Head) -> None:
    """Neck in the shadow of the chin, and patterned clothes."""
    window = head.canvas.everything
    canvas, dice, person = head.canvas, head.dice, head.person
    # The body stands upright below the head, whichever way the head leans.
    scale = head.appearance.scale
    sway = float(np.sin(head.appearance.roll))
    u = (canvas.x - np.float32(head.appearance.centre[0] - 0.6 * scale * sway)) / np.float32(scale)
    v = (canvas.y - np.float32(head.appearance.centre[1])) / np.float32(scale)
    neck = dice.between(0.36, 0.46) * person.face_width / 0.75
    light_x = head.appearance.light[0]
    tone = np.clip(0.86 + 0.25 * light_x * u + 0.12 * (1.5 - v), 0.4, 1.1)
    coverage = np.minimum(
        edge(np.abs(u) - neck - 0.25 * np.maximum(v - 1.2, 0), head.pixel), edge(0.4 - v, head.pixel)
    )
    shadow = 1 - 0.42 * np.clip(1 - (v - 0.85) * np.float32(2.2), 0, 1)
    skin = np.asarray(person.skin, np.float32)[:, None, None]
    canvas.paint(window, coverage, skin * (tone * shadow * (1 + 0.03 * head.grain)), PART["neck"])

    collar = dice.between(1.16, 1.3)
    slope = 1.14 + 0.34 * np.maximum(np.abs(u) - 0.38, 0) ** 1.5
    v_neck = dice.chance(0.5)
    cut = 0.5 * (neck - np.abs(u)) if v_neck else 0.22 * (1 - (u / np.float32(neck)) ** 2)
    opening = collar + 0.12 + cut
    upper = np.where(np.abs(u) < neck - 0.01, np.maximum(opening, slope), slope)
    cloth = edge(upper - v, head.pixel)
    colour = dice.colour(brightness=(0.3, 0.95), saturation=(0.2, 0.8))
    second = dice.near(colour, 0.35)
    folds = 1 + 0.10 * canvas.noise(6, dice.below(NOISES), stretch=2) + 0.05 * head.grain
    canvas.paint(
        window, cloth, np.asarray(colour, np.float32)[:, None, None] * (tone * folds), PART["clothes"]
    )
    rate = dice.between(3.0, 7.0)
    upright, level = stripes(rate * u, rate * head.pixel), stripes(rate * v, rate * head.pixel)
    plain = np.zeros_like(cloth)
    pattern = (upright, level, 0.5 * (upright + level), upright * level, plain)[dice.below(5)]
    ink = np.asarray(second, np.float32)[:, None, None] * (tone * folds)
    canvas.paint(window, 0.75 * cloth * pattern, ink)
    hem = between(v, upper, upper + 0.06, head.pixel) * edge(np.abs(u) - neck - 0.04, head.pixel)
    canvas.paint(window, 0.7 * hem, tuple(0.5 * c for c in colour))


def paint_earrings(head: Head) -> None:
    """A ring or a pearl below each ear."""
    person, yaw, dice = head.person, head.appearance.yaw, head.dice
    colour = ((0.95, 0.80, 0.35), (0.86, 0.88, 0.92), (0.30, 0.80, 0.75))[dice.below(3)]
    ring = dice.chance(0.5)
    radius = dice.between(0.06, 0.085)
    for side in (-1, 1):
        u = side * (person.face_width + 0.06) - 0.22 * max(0.0, side * yaw) * side
        v = 0.28 + radius
        window = head.canvas.window(u, v, radius, radius)
        distance = np.sqrt((window.u - u) ** 2 + (window.v - v) ** 2) - radius
        coverage = edge(distance, head.pixel)
        head.canvas.paint(window, coverage, colour, PART["earrings"])
        centre = edge(distance + (0.55 if ring else 0.75) * radius, head.pixel)
        head.canvas.paint(window, 0.8 * centre, (0.15, 0.1, 0.1) if ring else (1.0, 1.0, 1.0))


def paint_glasses(head: Head) -> None:
    """Rims around lenses that reflect a little; the eyes behind them stay visible."""
    dice = head.dice
    colour = dice.colour(brightness=(0.08, 0.5), saturation=(0.2, 0.9))
    width, height, corner = dice.between(0.25, 0.28), dice.between(0.18, 0.22), dice.between(0.08, 0.18)
    rim = max(dice.between(0.05, 0.075), 1.05 * head.pixel)  # a rim below a pixel would not show in the mask
    middle, v = (head.eyes[0].u + head.eyes[1].u) / 2, head.eyes[0].v + 0.01
    window = head.canvas.window(middle, v, head.person.face_width + 0.1, height + 0.1)
    frame = np.zeros_like(window.u)
    for eye in head.eyes:
        half = width * eye.half_width / head.person.eye_width
        distance = box_distance(window.u - eye.u, window.v - v, half, height, corner=corner)
        lens = edge(distance + rim, head.pixel)
        frame = np.maximum(frame, edge(distance, head.pixel) - lens)
        streak = stripes((window.u + 0.6 * window.v) * 2 + 0.3, 2 * head.pixel, share=0.2)
        head.canvas.paint(window, lens * (0.05 + 0.14 * streak), (0.92, 0.97, 1.0))
    # The bridge, and the temples that run back to the ears.
    bar = between(window.v, v - 0.06, v - 0.06 + rim, head.pixel)
    gap = np.abs(window.u - middle)
    inner = (head.eyes[1].u - head.eyes[0].u) / 2 - width + rim
    outer = (head.eyes[1].u - head.eyes[0].u) / 2 + width - rim
    bar = bar * ((gap < inner) | ((gap > outer) & (np.abs(window.u) < head.person.face_width)))
    frame = np.maximum(frame, bar)
    head.canvas.paint(window, frame, colour, PART["glasses"])
    head.add_box("glasses", window, frame)


def paint_hat(head: Head) -> None:
    """A knitted cap or a hat with a brim; both end above the brows."""
    window = head.canvas.everything
    canvas, dice, person, u, v = head.canvas, head.dice, head.person, head.canvas.u, head.canvas.v
    colour = dice.colour(brightness=(0.3, 0.9), saturation=(0.3, 0.9))
    band = dice.near(colour, 0.4)
    brimmed = dice.chance(0.5)
    line = -0.56 + 0.10 * head.across * head.across
    width, top = person.face_width + 0.5 * person.hair_volume + 0.06, 1.2 + 0.4 * person.hair_volume
    if brimmed:
        crown = box_distance(u, v + 0.98, width - 0.05 - 0.12 * np.clip(-v - 0.6, 0, 1), 0.46, corner=0.12)
    else:
        crown = ellipse_distance(u, v + 0.1, width, top)
    coverage = np.minimum(edge(crown, head.pixel), edge(v - line, head.pixel))
    if brimmed:
        brim = ellipse_distance(u, v - line + 0.02, 1.42 * width, 0.09)
        coverage = np.maximum(coverage, edge(brim, head.pixel))
    fabric = np.clip(0.35 + 0.7 * head.light, 0.3, 1.15) * (1 + 0.10 * head.grain)
    shadow = head.face * np.clip(1 - (v - line) / np.float32(0.14), 0, 1)
    canvas.paint(window, 0.3 * shadow, (0.05, 0.03, 0.03))
    canvas.paint(window, coverage, np.asarray(colour, np.float32)[:, None, None] * fabric, PART["hat"])
    stripe = coverage * between(v, line - 0.26, line - (0.1 if brimmed else 0.0), head.pixel)
    canvas.paint(window, 0.85 * stripe, np.asarray(band, np.float32)[:, None, None] * fabric)
    if not brimmed:
        knit = stripes(9 * head.across, 9 * head.pixel / person.face_width, share=0.35)
        canvas.paint(window, 0.25 * coverage * knit, (0.05, 0.05, 0.08))
    head.add_box("hat", window, coverage)
