"""Videos: files, and folders of frames, such as the dated tiles of one place."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.files.recognize import head_of, is_text, recognize, starts_with
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, stamp, usable_id
from setclip_cli.ingest.sources.check_image import UnusableImageError, check_image, image_format
from setclip_cli.ingest.sources.folder import Found, find_files
from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES, read_capped
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.split_folders import FolderNames
from setclip_cli.pixels.bands import MAX_IMAGE_BYTES
from setclip_cli.pixels.video import FEWER, FRAMES, UnusableVideoError, even_places, even_times
from setclip_cli.pixels.video_decoders import Decoders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from setclip_cli.ingest.sources.base import FileStamp
    from setclip_cli.ingest.sources.re_encode import CheckedImage

# A file with one of these suffixes is surely meant to be a video. Of other files, the first bytes say what they are.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts"),
    *(".vob", ".wmv", ".asf", ".flv", ".ogv", ".ogg", ".3gp", ".3g2", ".y4m", ".ivf", ".h264", ".h265", ".hevc"),
    *(".gif", ".mjpeg", ".mjpg", ".nut"),
)
_NO_FRAME = "no frame can be read"
_LEFT_OUT = "frames left out, because they cannot be read"
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])"
    r"(?:[T_ -]?([01]\d|2[0-3])[-_.:]?([0-5]\d)(?:[-_.:]?([0-5]\d))?)?(?!\d)"
)
_DIGITS = re.compile(r"(\d+)")


class Frame(NamedTuple):
    name: str
    seconds: float | None  # from the date of the first frame, if the names of all frames have dates


class VideoFolder(Reader):
    """A folder of videos, read recursively; or one video file.

    A video is a file, or a folder that holds pictures itself: its frames, in the order of the dates in their names if
    all have one, else of their names. The id is the path below the folder. Folders above it give split and label, as
    those of images do (see `FolderNames`).

    Args:
        frames: How many are taken of each video, evenly in time; all of them if there are fewer.
        decoders: What decodes; closed by who gives it. None are processes of its own, while records are taken.
    """

    def __init__(self, path: Path, *, frames: int | None, decoders: Decoders | None = None) -> None:
        super().__init__(path)
        self._given, self._decoders = decoders, decoders or Decoders()
        self._root = path if path.is_dir() else path.parent
        self._count = frames or FRAMES

    def files(self) -> Sequence[FileStamp]:
        return self._found.files

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        if self._given is not None:
            yield from super().records(start, workers)
            return
        with Decoders() as self._decoders:
            yield from super().records(start, workers)

    def notes(self) -> list[str]:
        pictures = sum(map(len, self._sorted.folders.values()))
        told = [f"at most {self._count:,} frames of each video, evenly in time"]
        return [*told, f"{len(self._sorted.folders):,} folders of {pictures:,} frames"] if pictures else told

    def walk(self) -> Walk:
        files = (Item(name, None) for name in self._sorted.files)
        folders = (Item(name or self._own_name, frames) for name, frames in self._sorted.folders.items())
        others = (Item(other.location, other) for other in (*self._sorted.others, *self._found.others))
        return Walk(chain(files, folders, others), lambda item: (self._answer(item),), one_each=True, per_task=1)

    @cached_property
    def _found(self) -> Found:
        return find_files(self.path) if self.path.is_dir() else Found([stamp(self.path)], [])

    @property
    def _own_name(self) -> str:
        return self.path.resolve().name

    @cached_property
    def _sorted(self) -> _Sorted:
        found = _Sorted([], {}, [])
        for name, _, _ in self._found.files:
            lower = name.lower()
            if lower.endswith(VIDEO_SUFFIXES):
                found.files.append(name)
            elif self.path.is_dir() and (lower.endswith(IMAGE_SUFFIXES) or _is_picture(self._root / name)):
                found.folders.setdefault(name.rpartition("/")[0], []).append(name)
            elif self.path.is_file():
                found.files.append(name)
            else:
                found.others.append(_no_video(self._root / name, name))
        return found

    @cached_property
    def _names(self) -> FolderNames:
        """What the folders above all videos say."""
        source = self._own_name if self.path.is_dir() else ""
        return FolderNames(source, [*self._sorted.files, *self._sorted.folders])

    def _answer(self, item: Item) -> Record | Reject:
        if isinstance(item.content, Reject):
            return item.content
        name = item.location
        if unusable := usable_id(name):
            return Reject(name, unusable)
        try:
            if item.content is None:
                pictures, times, width, height, repairs = self._of_file(name)
            else:
                pictures, times, width, height, repairs = self._of_folder(item.content)
        except UnusableVideoError as error:
            return Reject(name, str(error))
        if sum(map(len, pictures)) > MAX_IMAGE_BYTES:
            return Reject(name, f"frames over {MAX_IMAGE_BYTES:,} bytes together")
        digest = hashlib.sha256()
        for picture in pictures:
            digest.update(picture)
        split, label = self._names.of(name if item.content is None else item.content[0].rpartition("/")[0])
        return Record(
            "video",
            name,
            pictures,
            digest.hexdigest(),
            label=label,
            split=split,
            columns=(width, height, times),
            repairs=repairs,
            made_up=True,
        )

    def _of_file(self, name: str) -> _Taken:
        path = self._root / name
        try:
            head = head_of(path)
        except OSError as error:
            raise UnusableVideoError(error.strerror or "cannot be read") from error
        if found := recognize(head):
            raise UnusableVideoError(found.what)
        if is_text(head):
            raise UnusableVideoError(f"a text file, not a video: starts with {starts_with(head)}")
        frames = self._decoders.sample(path, self._count)
        return frames.pictures, list(frames.times), frames.width, frames.height, frames.repairs

    def _of_folder(self, names: Sequence[str]) -> _Taken:
        ordered = in_time(names)
        read: list[tuple[Frame, CheckedImage]] = []
        why: list[str] = []
        repairs: Counter[str] = Counter()
        for frame in evenly(ordered, self._count):
            try:
                image = check_image(read_capped(f"{self._root}/{frame.name}"), frame.name)
            except (UnusableImageError, OSError) as error:
                reason = str(error).partition(": pass --bands")[0]  # an option of images, not of videos
                why.append(f"{frame.name.rpartition('/')[2]}, {reason}")
                repairs[_LEFT_OUT] += 1
                continue
            repairs.update(image.repairs)
            read.append((frame, image))
        if not read:
            raise UnusableVideoError(f"{_NO_FRAME}: {why[0]}")
        if len(ordered) < self._count:
            repairs[FEWER] += 1
        first = read[0][1]
        seconds = [frame.seconds for frame, _ in read]
        times = None if None in seconds else seconds
        return tuple(image.content for _, image in read), times, first.width, first.height, tuple(repairs)


def frames_at(path: Path, count: int, *, decoders: Decoders | None = None) -> tuple[bytes, ...]:
    """The frames of a video file or of a folder of frames, as an ingest with as many frames takes them.

    Args:
        decoders: What decodes; None starts a process for this video.

    Raises:
        UnusableVideoError: it is neither, or cannot be read.
        OSError: there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    answers = list(VideoFolder(path, frames=count, decoders=decoders).records(0, 1))
    videos = [answer for answer in answers if isinstance(answer, Record)]
    if len(videos) == 1 and isinstance(videos[0].payload, tuple):
        return videos[0].payload
    why = next((answer.reason for answer in answers if isinstance(answer, Reject) and answer.bad), "holds no video")
    raise UnusableVideoError(f"holds {len(videos):,} videos" if videos else why)


class _Sorted(NamedTuple):
    files: list[str]
    folders: dict[str, list[str]]  # each with the names of its frames
    others: list[Reject]


_Taken = tuple[tuple[bytes, ...], list[float | None] | list[float] | None, int, int, tuple[str, ...]]


def in_time(names: Sequence[str]) -> list[Frame]:
    """Frames in the order of the dates in their file names, if all have one; else of their names, 2 before 10."""
    by_name = sorted(names, key=lambda name: [int(each) if each.isdecimal() else each for each in _DIGITS.split(name)])
    dates = [date_of(name.rpartition("/")[2]) for name in by_name]
    known = [date for date in dates if date is not None]
    if len(known) < len(dates):
        return [Frame(name, None) for name in by_name]
    first = min(known)
    frames = [Frame(name, (date - first).total_seconds()) for name, date in zip(by_name, known, strict=True)]
    return sorted(frames, key=lambda frame: frame.seconds or 0.0)


def date_of(name: str) -> datetime | None:
    """The first date in a name: ``2021-06-05``, ``20210605``, ``S2A_20210605T103021_B04``; None without one."""
    found = _DATE.search(name)  # a product's name has the date of its pictures first
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(each or 0) for each in found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:  # 31 February
        return None


def evenly(frames: Sequence[Frame], count: int) -> list[Frame]:
    """At most ``count`` frames, evenly in time: the nearest to the times of `even_times`; without dates, by number."""
    if len(frames) <= count:
        return list(frames)
    last = frames[-1].seconds
    if not last:  # no dates, or one date
        return [frames[place] for place in even_places(len(frames), count)]
    chosen: dict[int, None] = {}
    for time in even_times(last, count):
        chosen.setdefault(min(range(len(frames)), key=lambda at: abs((frames[at].seconds or 0.0) - time)))
    return [frames[at] for at in sorted(chosen)]


def _is_picture(path: Path) -> bool:
    try:
        return image_format(head_of(path)) is not None
    except OSError:
        return False


def _no_video(path: Path, name: str) -> Reject:
    """Why a file in a folder of videos is not read: neither its suffix nor its first bytes are those of one."""
    try:
        head = head_of(path)
    except OSError as error:
        return Reject(name, error.strerror or "cannot be read")
    found = recognize(head)
    return Reject(name, f"not a video: {found.what if found else f'starts with {starts_with(head)}'}", bad=False)
