"""What was measured before: one line an image in one file a point, so that no call measures anything twice."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 2
"""Goes up when what is measured changes its meaning: older lines are then left alone."""

Entry = dict[str, Any]


class Cache:
    """Lines of one point.

    Every line stands for itself and is written at once: a killed evaluation loses the image it was at.

    Args:
        folder: of all points; made where it is missing.
        key: of the point: its codec, weights, settings and rate.
    """

    def __init__(self, folder: Path, key: str):
        self.path = folder / f"{key}.v{VERSION}.jsonl"
        self.lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        if self.path.is_file():
            for line in self.path.read_text().splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self.entries[entry["image"]] = entry
        except (json.JSONDecodeError, KeyError, TypeError):
            pass  # torn when an evaluation was killed: that image is measured again

    def get(self, image: str, digest: str) -> Entry | None:
        """What is known of an image.

        Args:
            image: its name.
            digest: of its pixels and labels; an entry of other content does not count.
        """
        entry = self.entries.get(image)
        return entry if entry is not None and entry["digest"] == digest else None

    def add(self, image: str, digest: str, content: Mapping[str, Any]) -> Entry:
        """Keep what was measured of an image, and what was known of it: other heads, other measures."""
        known = self.get(image, digest) or {}
        entry = {"image": image, "digest": digest}
        for key, value in content.items():
            entry[key] = {**known.get(key, {}), **value} if isinstance(value, Mapping) else value
        with self.lock:
            self.entries[image] = entry
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
        return entry
