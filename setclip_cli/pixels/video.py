"""A few frames of a video file, evenly in time, as JPEG pictures.

Times decide, not numbers of frames, so that a file of variable frame rate is sampled evenly too. A short video is
decoded from its start; of a long one, only what lies between a key frame and each wanted time. FFmpeg reads the file
itself and nothing else: no playlist, no address and no second file that it names.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from setclip_cli.errors import SetClipError
from setclip_cli.pixels.bands import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from PIL import Image

FRAMES = 16  # of each video, if nobody asks for another number
FRAME_PX = 512  # the shorter side of a stored frame is not longer
JPEG_QUALITY = 92
OLDEST_AV = 18  # the first number of its version
LONG_SECONDS = 60.0  # a longer video is not decoded from its start to its end
MOST_AFTER_KEY_FRAME = 600  # frames that are decoded for one wanted time
ENDS_EARLY = "video ends before the length that its file states"
FEWER = "video with fewer different frames than asked for"
SMALLER = f"frames made smaller: the shorter side is {FRAME_PX} pixels"
FAR_KEY_FRAME = f"frame taken earlier than evenly: its key frame is over {MOST_AFTER_KEY_FRAME} frames before it"
# FFmpeg's names; no playlist such as HLS or DASH, and nothing that only names other files, such as concat.
_FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpeg", "mpegts", "mpegvideo", "asf"),
    *("flv", "ogg", "gif", "h264", "hevc", "m4v", "ivf", "mjpeg", "yuv4mpegpipe", "nut", "apng", "av1", "obu"),
)
_ROUNDING = 1e-6  # seconds: a frame that begins at a wanted time is shown then
_GUESSED_LENGTHS = (
    "mpeg",
    "mpegvideo",
    "h264",
    "hevc",
    "m4v",
    "mjpeg",
    "obu",
)  # FFmpeg guesses from the bytes a second
_TURNED = {
    90: "ROTATE_90",
    -270: "ROTATE_90",
    180: "ROTATE_180",
    -180: "ROTATE_180",
    270: "ROTATE_270",
    -90: "ROTATE_270",
}


class UnusableVideoError(ValueError):
    """Why a file is not a video that can be used."""


class Frames(NamedTuple):
    """Frames of one video.

    Attributes:
        pictures: JPEG files.
        times: Seconds from the start of the video to each of them.
        width, height: Of the upright pictures.
        repairs: What a user should know about how they were taken.
    """

    pictures: tuple[bytes, ...]
    times: tuple[float, ...]
    width: int
    height: int
    repairs: tuple[str, ...]


def av_needed() -> Any:
    """The package av. Raises SetClipError if it is not installed, or too old: before 18 it crashes on MPEG files."""
    try:
        import av
    except ImportError as error:
        raise SetClipError(
            "video files need the package av", fix="pip install 'setclip[video]', or give folders of frames"
        ) from error
    if int(av.__version__.partition(".")[0]) < OLDEST_AV:
        raise SetClipError(
            f"the package av {av.__version__} is too old: it crashes on some files",
            fix=f"pip install 'av>={OLDEST_AV}', or give folders of frames",
        )
    return av


def even_times(length: float, count: int) -> list[float]:
    """The middles of ``count`` equal parts of a length: (k + 1/2) · length / count."""
    return [(k + 0.5) * length / count for k in range(count)]


def even_places(length: int, count: int) -> list[int]:
    """The numbers of at most ``count`` of so many frames whose times are not known, evenly chosen."""
    return [*range(length)] if length <= count else [math.floor(place) for place in even_times(length, count)]


def sample_video(path: Path, count: int, *, most_pixels: int | None = None) -> Frames:
    """Takes the frames that are shown at even times (see `even_times`); each different frame once.

    Args:
        most_pixels: Larger frames are not decoded; None is ``MAX_PIXELS``.

    Raises:
        UnusableVideoError: the file is not a video that can be read; the message is the reason.
        SetClipError: the package av is not installed.
    """
    av = av_needed()
    try:
        with av.open(
            f"file:{path.resolve()}",
            metadata_errors="ignore",
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)},
        ) as container:
            return _Sampler(container, count, most_pixels or MAX_PIXELS).frames()
    except UnusableVideoError:
        raise
    except MemoryError as error:
        raise UnusableVideoError("too large to decode") from error
    except Exception as error:  # FFmpeg's errors, and what PyAV makes of strange files
        words = getattr(error, "strerror", None) or type(error).__name__
        raise UnusableVideoError(f"damaged video, or none: {words}") from error


class _Sampler:
    def __init__(self, container: Any, count: int, most_pixels: int) -> None:
        from av.stream import Disposition

        # the cover of a piece of music is no video
        streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
        if not len(container.streams):
            raise UnusableVideoError("damaged video, or none: no stream in it")
        if not streams:
            raise UnusableVideoError("no pictures: the file has no video stream")
        self._container, self._stream, self._count = container, streams[0], count
        self._most_pixels = most_pixels
        width, height = self._stream.codec_context.width, self._stream.codec_context.height
        if width * height > most_pixels:
            raise UnusableVideoError(f"over the cap of {most_pixels:,} pixels: {width:,} x {height:,}")
        self._start = float((self._stream.start_time or 0) * (self._stream.time_base or 0))
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._step = 1 / float(rate) if rate else 0.04
        self._repairs: dict[str, None] = {}

    def frames(self) -> Frames:
        length = self._length()
        targets = [time + _ROUNDING for time in even_times(length, self._count)]
        found = self._sought(targets) if length > LONG_SECONDS else self._in_order(targets)
        if not found:
            raise UnusableVideoError("no frames: nothing in the file can be decoded to a picture")
        if len(found) < self._count:
            self._repairs.setdefault(FEWER)
        pictures = [self._picture(frame) for _, frame in found]
        return Frames(
            tuple(_jpeg(each) for each in pictures),
            tuple(round(time, 6) for time, _ in found),
            *pictures[0].size,
            tuple(self._repairs),
        )

    def _length(self) -> float:
        """Seconds of the video: as the file states it, or else to the end of its last packet, without decoding."""
        stream = self._stream
        if self._container.format.name not in _GUESSED_LENGTHS:
            if stream.duration and stream.time_base:
                return float(stream.duration * stream.time_base)
            if self._container.duration:
                before = self._start - (self._container.start_time or 0) / 1_000_000
                return float(self._container.duration / 1_000_000 - max(0.0, before))
        end = self._start
        for packet in self._container.demux(stream):
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        self._container.seek(0)
        return max(end - self._start, self._step)

    def _decoded(self) -> Iterator[tuple[float, Any]]:
        """Frames from where the container is, with their times from the start of the video."""
        before: float | None = None
        for frame in self._container.decode(self._stream):
            if frame.width * frame.height > self._most_pixels:
                raise UnusableVideoError(
                    f"over the cap of {self._most_pixels:,} pixels: {frame.width:,} x {frame.height:,}"
                )
            if frame.time is not None:
                time = float(frame.time) - self._start
            else:
                time = 0.0 if before is None else before + self._step
            before = time
            yield time, frame

    def _in_order(self, targets: Sequence[float]) -> list[tuple[float, Any]]:
        """The frames shown at the targets, from one pass over the file."""
        found: dict[float, Any] = {}
        shown: tuple[float, Any] | None = None
        place, last = 0, self._step
        for time, frame in self._decoded():
            shown = shown or (time, frame)
            while place < len(targets) and time > targets[place]:
                found.setdefault(*shown)
                place += 1
            if place == len(targets):
                break
            last = self._lasts(frame)
            shown = (time, frame)
        if shown is not None and place < len(targets):
            if targets[-1] > shown[0] + last + targets[-1] / len(targets):
                self._repairs.setdefault(ENDS_EARLY)
            found.setdefault(*shown)
        return list(found.items())

    def _lasts(self, frame: Any) -> float:
        """How long a frame is shown, as far as the file says it."""
        duration = getattr(frame, "duration", 0) or 0
        return max(float(duration * frame.time_base) if duration and frame.time_base else 0.0, self._step)

    def _sought(self, targets: Sequence[float]) -> list[tuple[float, Any]]:
        """The same for a long video: each from the key frame before it."""
        import av

        found: dict[float, Any] = {}
        for target in targets:
            try:
                self._container.seek(
                    int((target + self._start) / float(self._stream.time_base)), stream=self._stream, backward=True
                )
            except (av.error.FFmpegError, OSError):
                self._container.seek(0)
                return self._in_order(targets)  # a file without an index: slow, and right
            shown: tuple[float, Any] | None = None
            for number, (time, frame) in enumerate(self._decoded()):
                if shown is not None and time > target:
                    break
                shown = (time, frame)
                if number == MOST_AFTER_KEY_FRAME:
                    self._repairs.setdefault(FAR_KEY_FRAME)
                    break
            if shown is not None:
                found.setdefault(*shown)
        return sorted(found.items(), key=lambda each: each[0])

    def _picture(self, frame: Any) -> Image.Image:
        """The upright RGB picture of a frame, made smaller if it is large."""
        from PIL import Image

        image: Image.Image = frame.to_image()
        if (turn := _TURNED.get(round(getattr(frame, "rotation", 0) or 0) % 360)) is not None:
            image = image.transpose(Image.Transpose[turn])
        if min(image.size) > FRAME_PX:
            factor = FRAME_PX / min(image.size)
            image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
            self._repairs.setdefault(SMALLER)
        return image


def _jpeg(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "JPEG", quality=JPEG_QUALITY)
    return written.getvalue()
