"""Small video files and folders of frames that tests render: clips of one colour that gets brighter."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
CODECS = {".webm": "libvpx", ".mpg": "mpeg2video", ".ts": "mpeg2video"}


def render(
    path: Path,
    *,
    times: Sequence[float],
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0),
    size: tuple[int, int] = (64, 48),
    key_frame_every: int = 12,
    last: float | None = None,
) -> Path:
    """Writes frames at these seconds; the brightness of frame i of n is 255 i / (n - 1).

    Args:
        last: How long the last frame is shown; as long as the one before it, if it is left out.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix
    rate = 25 if suffix in (".mpg", ".ts") else 10
    base = Fraction(1, 1000) if suffix not in (".mpg", ".ts", ".avi") else Fraction(1, rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODECS.get(suffix, "mpeg4"), rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = key_frame_every
        stream.codec_context.time_base = base
        for number, time in enumerate(times):
            bright = 255 * number / max(1, len(times) - 1)
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[:] = np.array(colour) * bright
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def even(count: int, rate: float = 10) -> list[float]:
    return [number / rate for number in range(count)]


def brightness(picture: bytes) -> int:
    """0 to 255: the largest channel in the middle."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    return int(np.asarray(image)[image.height // 2, image.width // 2].max())


def dated_tiles(folder: Path, days: Sequence[int], *, colour: tuple[float, float, float] = GREEN) -> Path:
    """A folder of PNG tiles named by date; the brightness of a tile is its day."""
    folder.mkdir(parents=True, exist_ok=True)
    for day in days:
        when = date(2021, 1, 1) + timedelta(days=day)
        pixels = np.zeros((32, 40, 3), np.uint8)
        pixels[:] = np.array(colour) * day
        Image.fromarray(pixels).save(folder / f"S2A_{when:%Y%m%d}_tile.png")
    return folder
