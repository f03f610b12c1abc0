"""Makes the images of `examples/firmware`: `python -m tests.images FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.images import esp32_image, esp8266_image


def make_examples(folder: Path) -> None:
    """Make the images of `examples/firmware`."""
    folder.mkdir(parents=True, exist_ok=True)
    examples = {
        "firmware-1.0.0.bin": esp8266_image(16384, seed=10),
        "firmware-1.1.0.bin": esp8266_image(16384, seed=11),
        "lamp-2.0.0.bin": esp32_image("esp32", "2.0.0", "lamp", 16384, seed=20),
    }
    for name, image in examples.items():
        (folder / name).write_bytes(image)


if __name__ == "__main__":
    make_examples(Path(sys.argv[1]))
