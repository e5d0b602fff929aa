"""Batches: of what waits, never of what may come; and one job does not spoil or hold up the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from setclip_cli.serving.batching import WAITING, Batches, BusyError


class Work:
    """Doubles numbers, once it may; -13 cannot be doubled, and a batch with -666 fails."""

    def __init__(self) -> None:
        self.may, self.began = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | Exception]:
        self.began.set()
        assert self.may.wait(60)
        self.batches.append([*jobs])
        if -666 in jobs:
            raise RuntimeError("broken")
        return [ValueError("unlucky") if job == -13 else 2 * job for job in jobs]


async def _asked(batches: Batches[int, int], work: Work, jobs: Sequence[int], within_s: float = 60) -> list[object]:
    """The answers to 0 and then, while that is at work, to all jobs."""
    first = asyncio.create_task(batches.answer(0, within_s=within_s))
    await asyncio.to_thread(work.began.wait, 60)
    others = [asyncio.create_task(batches.answer(job, within_s=within_s)) for job in jobs]
    await asyncio.sleep(0)
    work.may.set()
    return await asyncio.gather(first, *others, return_exceptions=True)


@pytest.fixture
def work() -> Work:
    return Work()


def test_what_waits_is_worked_on_together_half_of_it_at_a_time(work: Work) -> None:
    batches: Batches[int, int] = Batches(work)
    answers = asyncio.run(_asked(batches, work, range(1, 41)))
    batches.close()
    assert answers == [2 * job for job in range(41)]
    assert [len(batch) for batch in work.batches] == [1, 16, 12, 6, 4, 2]


def test_what_is_wrong_with_one_job_is_told_to_it_alone(work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    batches: Batches[int, int] = Batches(work)
    answers = asyncio.run(_asked(batches, work, [1, -13, -666, 2]))
    batches.close()
    assert [repr(answer) for answer in answers] == ["0", "2", "ValueError('unlucky')", "RuntimeError('broken')", "4"]
    assert "broken" in capsys.readouterr().err


def test_a_job_that_nobody_waits_for_any_more_is_not_done(work: Work) -> None:
    batches: Batches[int, int] = Batches(work)

    async def leave() -> None:
        first = asyncio.create_task(batches.answer(0, within_s=60))
        await asyncio.to_thread(work.began.wait, 60)
        with pytest.raises(BusyError, match="there was no answer within"):
            await batches.answer(1, within_s=0.01)
        work.may.set()
        assert await first == 0

    asyncio.run(leave())
    batches.close()
    assert work.batches == [[0]]


def test_more_than_can_wait_are_refused_at_once(work: Work) -> None:
    batches: Batches[int, int] = Batches(work)
    answers = asyncio.run(_asked(batches, work, range(1, WAITING + 11)))
    batches.close()
    assert [type(answer) for answer in answers].count(BusyError) == 10
    assert answers[: WAITING + 1] == [2 * job for job in range(WAITING + 1)]
