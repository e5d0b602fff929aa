"""Videos that strangers send: files, which another process decodes, one at a time; or frames as pictures."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.errors import UsageError
from setclip_cli.files.write_errors import writing
from setclip_cli.ingest.sources.video import frames_at
from setclip_cli.pixels.video import UnusableVideoError, even_places
from setclip_cli.pixels.video_decoders import Decoders
from setclip_cli.serving.batching import BusyError
from setclip_cli.serving.pictures import PIXELS, bytes_of, picture_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class Videos:
    """Makes of what a request holds the frames that a tower reads."""

    def __init__(self, *, within_s: float) -> None:
        """A file may take so many seconds to decode, and may wait as many for its turn."""
        self._within_s = within_s
        self._decoders = Decoders(within_s=within_s, most_pixels=PIXELS)
        self._turn = asyncio.Semaphore()

    def close(self) -> None:
        self._decoders.close()

    async def of_file(self, text: str, count: int, field: str) -> Sequence[bytes]:
        """Frames of a video file in base64, taken as an ingest takes them.

        Raises:
            UsageError: it is not base64, or not a video that can be used.
            BusyError: others are still being decoded.
            SetClipError: the package av is not installed.
        """
        try:
            await asyncio.wait_for(self._turn.acquire(), self._within_s)
        except TimeoutError as error:
            raise BusyError("too many videos are sent just now") from error
        try:
            return await asyncio.to_thread(self._decoded, text, count, field)
        except asyncio.CancelledError:  # the service stops, and would wait for the thread
            self._decoders.close()
            raise
        finally:
            self._turn.release()

    async def of_frames(self, texts: Sequence[str], count: int, field: str) -> Sequence[bytes]:
        """Pictures in base64, in the order of time; if there are more than the tower reads, some of them, evenly.

        Raises:
            UsageError: as `picture_of` does.
        """
        chosen = even_places(len(texts), count)
        return await asyncio.to_thread(
            lambda: [picture_of(texts[place], bands=False, field=f"{field}.{place}") for place in chosen]
        )

    def _decoded(self, text: str, count: int, field: str) -> Sequence[bytes]:
        content = bytes_of(text, field, "video")
        place = Path(tempfile.gettempdir())
        with ExitStack() as kept:
            with writing(place, needs=len(content)):
                folder = kept.enter_context(tempfile.TemporaryDirectory(prefix="setclip-"))
                path = Path(folder, "video")
                path.write_bytes(content)
            try:
                return frames_at(path, count, decoders=self._decoders)
            except UnusableVideoError as error:
                raise UsageError(
                    f"{field}: cannot be used: {error}", fix="send a whole video file, or its frames as pictures"
                ) from error
