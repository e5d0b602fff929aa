"""Video files are decoded in processes of their own: a file that crashes FFmpeg ends such a process, and no other.

A process answers one request after the other, so a video costs no start of a process. It is asked in a line of JSON on
its standard input. Its answer is a line of JSON, and then the pictures one after the other. Before the first answer it
says that it has started. It ends with its input, thus also when this process is killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError, translated
from setclip_cli.pixels.video import Frames, UnusableVideoError, av_needed, sample_video

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from setclip_cli.pixels.video_decoders import answer; answer()"
_STARTED = b"started\n"
_LOOK_S = 0.5
_A_PROCESS = "a process that decodes videos"
_TRIES = 2  # a process may also be killed because others take too much memory


class Decoders:
    """`sample_video` in other processes: as many as there are threads that ask at a time.

    None is started before it is needed, and none is left after `close`, or a block that this begins.
    """

    def __init__(self, *, within_s: float | None = None, most_pixels: int | None = None) -> None:
        """What can be decoded.

        Args:
            within_s: A file that takes longer is unusable. The start of a process does not count.
            most_pixels: As `sample_video` takes it.
        """
        self._idle: list[_Decoder] = []
        self._busy: set[_Decoder] = set()
        self._within_s, self._most_pixels, self._closed = within_s, most_pixels, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all processes, also one that another thread waits for: for that thread its file is unusable."""
        self._closed = True
        for decoder in [*self._busy]:
            decoder.kill()
        while self._idle:
            self._idle.pop().end()

    def sample(self, path: Path, count: int) -> Frames:
        """The frames of a file, as `sample_video` gives them.

        Raises:
            UnusableVideoError: as `sample_video` does; or decoding ends its process twice, or takes too long.
            SetClipError: the package av is not installed, or no process starts.
        """
        request = {"path": str(path.resolve()), "count": count, "most_pixels": self._most_pixels}
        for _ in range(_TRIES):
            decoder = self._take()
            self._busy.add(decoder)
            try:
                return decoder.sample(request, self._within_s)
            except _EndedError as error:
                ended = error
            finally:
                self._busy.discard(decoder)
                self._idle.append(decoder) if decoder.ready and not self._closed else decoder.end()
            if self._closed:
                break
        if not (ended.started or self._closed):
            fix = "check that `python -c 'import av'` works and that memory is free"
            raise SetClipError(f"{_A_PROCESS}: ended at its start ({ended.how})", fix=fix)
        raise UnusableVideoError(ended.in_words())

    def _take(self) -> _Decoder:
        while True:
            try:
                decoder = self._idle.pop()  # one step, so no two threads get the same
            except IndexError:
                return _Decoder()
            if decoder.is_there():
                return decoder
            decoder.end()


class _EndedError(Exception):
    """A process ended while it was to start, or to answer.

    Attributes:
        how: A signal, or an exit code.
        started: Whether it had started.
    """

    def __init__(self, code: int, *, started: bool) -> None:
        super().__init__(code)
        self.how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.started = started

    def in_words(self) -> str:
        """What is wrong with the file."""
        if self.how == "SIGKILL":
            return "too large to decode: its process was killed, most likely because memory ran out"
        return f"damaged video, or none: FFmpeg crashed on it ({self.how})"


class _Decoder:
    """One process.

    Attributes:
        ready: Whether it waits for a request.
    """

    def __init__(self) -> None:
        av_needed()
        with translated(_A_PROCESS, OSError, found="cannot be started", fix="free some memory"):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _PROGRAM, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what FFmpeg and the C library print about broken files
                start_new_session=True,  # Ctrl-C in the terminal is for this process, which ends the other
            )
        self.ready = True
        self._started = False

    def is_there(self) -> bool:
        return self._process.poll() is None

    def sample(self, request: dict[str, Any], within_s: float | None) -> Frames:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.ready = False
        if not self._started and self._process.stdout.readline() != _STARTED:
            raise _EndedError(self._process.wait(), started=False)
        self._started = True
        with self._killed_after(within_s) as late:
            try:
                with suppress(BrokenPipeError):
                    self._process.stdin.write(json.dumps(request).encode() + b"\n")
                    self._process.stdin.flush()
                frames, unusable = _received(self._process.stdout)
            except EOFError as error:
                if late.is_set():
                    raise UnusableVideoError(f"takes over {within_s:g} s to decode") from error
                raise _EndedError(self._process.wait(), started=True) from error
        self.ready = not late.is_set()
        if frames is None:
            raise UnusableVideoError(unusable)
        return frames

    @contextmanager
    def _killed_after(self, seconds: float | None) -> Iterator[threading.Event]:
        """Kills the process if the block takes longer; the event then says so."""
        late = threading.Event()
        if seconds is None:
            yield late
            return

        def kill() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            yield late
        finally:
            timer.cancel()
            timer.join()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self.kill()
        with suppress(OSError):
            self._process.__exit__(None, None, None)


def _received(source: IO[bytes]) -> tuple[Frames | None, str]:
    """Reads an answer: frames, or why there are none. Raises EOFError if it is not whole."""
    line = source.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    said: dict[str, Any] = json.loads(line)
    if "unusable" in said:
        return None, said["unusable"]
    pictures = tuple(source.read(size) for size in said["sizes"])
    if [len(each) for each in pictures] != said["sizes"]:
        raise EOFError
    times, width, height, repairs = said["others"]
    return Frames(pictures, tuple(times), width, height, tuple(repairs)), ""


def _end_with_parent(parent: int) -> None:
    """Ends this process when the one that started it has ended: decoding of a long file would go on."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def answer() -> None:
    """What such a process does: it answers requests until there are no more."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what a library prints is no part of an answer
        out.write(_STARTED)
        out.flush()
        for line in sys.stdin.buffer:
            request = json.loads(line)
            said: dict[str, Any]
            pictures: tuple[bytes, ...] = ()
            try:
                pictures, *others = sample_video(
                    Path(request["path"]), request["count"], most_pixels=request["most_pixels"]
                )
                said = {"sizes": [len(each) for each in pictures], "others": others}
            except UnusableVideoError as error:
                said = {"unusable": str(error)}
            out.write(json.dumps(said).encode() + b"\n")
            out.writelines(pictures)
            out.flush()
