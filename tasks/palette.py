"""Colours of classes in pictures."""

import colorsys

import numpy as np


def palette(num_classes: int) -> np.ndarray:
    """Distinct colours, uint8 (num_classes, 3); steps of the golden ratio keep neighbours apart in hue."""
    hues = (np.arange(num_classes) * 0.618034) % 1
    colours = np.array([colorsys.hsv_to_rgb(hue, 0.8, 0.95) for hue in hues]).reshape(-1, 3)
    return np.round(colours * 255).astype(np.uint8)
