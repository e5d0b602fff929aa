"""Likely partners: by what is known, better after each answer, and different from each other."""

from __future__ import annotations

from pathlib import Path

import label_world
import pytest
import torch

from setclip_cli.labelling.candidates import Partners, different, likely_partners, typical_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_world.make_dataset(tmp_path_factory.mktemp("world"))


def colours(rows: list[int], ids: list[str]) -> list[int]:
    return [int(ids[row].strip("picture.ng")) % 4 for row in rows]


def colour_of(pools, side: int, row: int) -> int:
    return colours([row], pools.sides[side].ids)[0]


@pytest.mark.parametrize("side", [0, 1])
def test_with_nothing_known_the_typical_rows_of_every_kind_are_shown(data: Path, side: int) -> None:
    pools = label_world.pools_of(data)
    found = likely_partners(pools, side, 3, 4)
    assert sorted(colours(found, pools.sides[1 - side].ids)) == [0, 1, 2, 3]


@pytest.mark.parametrize("side", [0, 1])
def test_one_answer_brings_its_kind_to_the_front(data: Path, side: int) -> None:
    pools = label_world.pools_of(data)
    left, right = pools.sides
    pair = next((i, j) for i in range(40) for j in range(60) if colour_of(pools, 0, i) == colour_of(pools, 1, j) == 2)
    alike = next(row for row in range(20, 40) if colour_of(pools, side, row) == 2)
    partners = Partners(pools)
    partners.learn([pair])
    scores = partners.scores(side, alike)
    assert scores is not None
    assert colours(scores.topk(8).indices.tolist(), (right if side == 0 else left).ids) == [2] * 8
    assert colours(partners.likely(side, alike, 3), (right if side == 0 else left).ids)[0] == 2


def test_answers_make_the_right_kind_come_first(data: Path) -> None:
    pools = label_world.pools_of(data)
    partners = Partners(pools)
    by_colour = [
        [next(row for row in range(60) if colour_of(pools, side, row) == colour) for side in (0, 1)]
        for colour in range(4)
    ]
    partners.learn([(left, right) for left, right in by_colour])
    for row in range(40):
        assert colour_of(pools, 1, partners.likely(0, row, 9)[0]) == colour_of(pools, 0, row)
    partners.learn([])
    assert partners.scores(0, 3) is None  # what was taken back is forgotten


def test_known_pairs_of_the_dataset_count_without_any_answer(data: Path) -> None:
    pools = label_world.pools_of(data)
    pairs = tuple(
        (left, next(row for row in range(60) if colour_of(pools, 1, row) == colour_of(pools, 0, left)))
        for left in range(8)
    )
    known = label_world.pools_of(data, pairs)
    assert all(
        colour_of(known, 1, likely_partners(known, 0, row, 1)[0]) == colour_of(known, 0, row) for row in range(40)
    )


def test_a_run_ranks_by_its_embeddings_and_answers_join_in(data: Path) -> None:
    pools = label_world.pools_of(data, embedded=True)
    partners = Partners(pools)
    assert colour_of(pools, 1, partners.likely(0, 5, 1)[0]) == colour_of(pools, 0, 5)
    before = partners.scores(0, 5)
    partners.learn([(row, partners.likely(0, row, 1)[0]) for row in (5, 6, 7, 8)])
    after = partners.scores(0, 5)
    assert before is not None
    assert after is not None
    assert not torch.equal(before, after)


@pytest.mark.parametrize(("known", "by_score"), [(1, 3), (4, 3), (20, 5), (30, 5)])
def test_while_little_is_known_most_candidates_stand_for_the_whole_pool(data: Path, known: int, by_score: int) -> None:
    pools = label_world.pools_of(data)
    partners = Partners(pools)
    spread = partners.likely(0, 39, 90)  # nothing is known: typical rows
    partners.learn([(left, left) for left in range(known)])
    nine = partners.likely(0, 39, 9)
    assert len(set(nine)) == 9
    scores = partners.scores(0, 39)
    assert scores is not None
    likely = different(scores, partners._transformed[1], 9)
    assert nine[0] == likely[0]
    assert [row for row in nine if row in likely[:by_score]] == likely[:by_score]
    typical = [row for row in nine if row not in likely[:by_score]]
    assert typical == [row for row in spread if row in typical]
    assert len(typical) == 9 - by_score
    for count in (1, 5, 30, 60, 90):  # "more" goes on with the list that is shown
        assert partners.likely(0, 39, count)[:9] == nine[:count]
    assert sorted(partners.likely(0, 39, 90)) == list(range(60))


def test_of_copies_one_is_shown_before_all_that_differ() -> None:
    rows = torch.eye(5)[torch.tensor([0, 0, 0, 0, 1, 2, 3])]
    scores = torch.tensor([1.0, 0.99, 0.98, 0.97, 0.9, 0.8, 0.1])
    assert different(scores, rows, 4) == [0, 4, 5, 1]  # what is unlikely stays behind a copy
    assert sorted(different(scores, rows, 10)) == [0, 1, 2, 3, 4, 5, 6]  # no more than there are


@pytest.mark.parametrize("count", [0, 1, 7])
def test_equal_scores_and_single_rows_are_no_problem(count: int) -> None:
    assert len(different(torch.zeros(7), torch.randn(7, 3), count)) == count
    assert different(torch.zeros(1), torch.zeros(1, 3), 3) == [0]
    assert typical_rows(torch.zeros(1, 3), 3) == [0]


def test_typical_rows_come_from_the_dense_places_first() -> None:
    rows = torch.cat([torch.tensor([[1.0, 0]]).repeat(50, 1), torch.tensor([[0, 1.0]]).repeat(5, 1)])
    rows = rows + 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    first, second = typical_rows(rows, 2)
    assert first < 50 <= second
