"""Neighbours and walks, against plain NumPy."""

from __future__ import annotations

import copy
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from setclip_cli.encoders import GraphMap, PoolMap, graph, neighbours
from setclip_cli.methods.graph_teacher import fit_teacher, pair_balance, teacher_coordinates


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("skip_self", [False, True])
def test_neighbours_are_those_of_a_full_sort_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch, skip_self: bool
) -> None:
    pool = rows(40, 5)
    monkeypatch.setattr(neighbours, "_TILE", 3 * 40)  # three queries at a time
    found, cosines = neighbours.nearest_neighbours(pool, pool, 7, skip_self=skip_self)
    similarities = (F.normalize(pool, dim=1) @ F.normalize(pool, dim=1).T).numpy()
    if skip_self:
        np.fill_diagonal(similarities, -np.inf)
    expected = np.argsort(-similarities, axis=1)[:, :7]
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_allclose(cosines.numpy(), np.take_along_axis(similarities, expected, 1), rtol=1e-5)


def caption_like(n: int, d: int = 32) -> Tensor:
    """Rows in groups, some of them copies of others."""
    centres = rows(200, d, 1).repeat(n // 200 + 1, 1)[:n]
    pool = F.normalize(centres + 0.5 * rows(n, d, 2), dim=1)
    pool[-50:] = pool[:50]
    return pool


@pytest.mark.parametrize("skip_self", [False, True])
def test_a_large_pool_is_searched_by_cells_that_miss_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch, skip_self: bool
) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    pool = caption_like(6000)
    expected, exact = neighbours.nearest_neighbours(pool, pool, 15, skip_self=skip_self)
    monkeypatch.setattr(neighbours, "APPROXIMATE_ABOVE", 5000)
    found, cosines = neighbours.nearest_neighbours(pool, pool, 15, skip_self=skip_self)
    assert found.shape == expected.shape
    assert int(found.min()) >= 0
    if skip_self:
        assert not (found == torch.arange(6000)[:, None]).any()
    assert bool((cosines[:, :-1] >= cosines[:, 1:]).all())
    assert float((cosines - exact).abs().mean()) < 1e-3
    shared = (found[:, :, None] == expected[:, None, :]).any(2).float().mean()
    assert float(shared) > 0.97
    again, _ = neighbours.nearest_neighbours(pool, pool, 15, skip_self=skip_self)
    assert torch.equal(found, again)
    few, _ = neighbours.Neighbours(pool).nearest(pool[:3], 15)
    assert few.shape == (3, 15)


def test_cells_with_fewer_rows_than_are_wanted_are_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(neighbours, "APPROXIMATE_ABOVE", 1000)
    monkeypatch.setattr(neighbours, "_PROBED", 1)
    pool = caption_like(2000)
    found, _ = neighbours.nearest_neighbours(pool, pool, 400, skip_self=True)
    assert int(found.min()) >= 0
    assert all(len(set(row)) == 400 for row in found[:20].tolist())


def test_without_faiss_a_large_pool_is_searched_exactly_and_a_note_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(neighbours, "APPROXIMATE_ABOVE", 30)
    monkeypatch.setitem(sys.modules, "faiss", None)
    neighbours._faiss.cache_clear()
    try:
        pool = rows(40, 5)
        found, _ = neighbours.nearest_neighbours(pool, pool, 3)
        neighbours.nearest_neighbours(pool, pool, 3)
    finally:
        neighbours._faiss.cache_clear()
    assert torch.equal(found[:, 0], torch.arange(40))
    assert capsys.readouterr().err.count("pip install 'setclip[search]'") == 1


def test_a_graph_map_of_a_large_pool_gives_a_row_the_same_embedding_alone_and_among_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed")
    monkeypatch.setattr(neighbours, "APPROXIMATE_ABOVE", 2000)
    pool = caption_like(3000)
    encoder = GraphMap(pool, graph.diffuse(pool, torch.arange(5)))
    queries = caption_like(300, 32)[100:] + 0.1 * rows(200, 32, 7)
    together = encoder(queries)
    torch.testing.assert_close(torch.cat([encoder(part) for part in queries.split(7)]), together)
    other = copy.deepcopy(encoder)
    other.load_state_dict(encoder.state_dict() | {"pool": pool.flip(0), "values": encoder.values.flip(0)})
    same = (other(queries) - together).abs().amax(1) < 1e-3  # the rows in another order make other cells
    assert float(same.float().mean()) > 0.95


def test_many_walks_are_those_taken_one_by_one() -> None:
    pool = rows(30, 4)
    sources = torch.arange(30).repeat(5)  # more than are walked together
    together = graph.diffuse(pool, sources, neighbours=4)
    alone = torch.cat([graph.diffuse(pool, source[None], neighbours=4) for source in sources[:30]], dim=1)
    torch.testing.assert_close(together, alone.repeat(1, 5))


def test_a_pool_smaller_than_k_gives_all_of_it() -> None:
    found, _ = neighbours.nearest_neighbours(rows(2, 5), rows(3, 5), 15)
    assert sorted(found[0].tolist()) == [0, 1, 2]


def dense_walk(pool: Tensor, k: int) -> npt.NDArray[np.float64]:
    """D^-½ A D^-½ of the symmetrised k-nearest-neighbour graph, entry by entry."""
    unit = F.normalize(pool, dim=1).double().numpy()
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -np.inf)
    adjacency = np.zeros_like(similarities)
    for i in range(len(pool)):
        for j in np.argsort(-similarities[i])[:k]:
            adjacency[i, j] = adjacency[j, i] = np.exp(similarities[i, j] / 0.1)
    degree = adjacency.sum(1)
    return adjacency / np.sqrt(np.outer(degree, degree))


def test_walks_match_the_recursion_written_with_dense_matrices() -> None:
    pool, sources, k = rows(12, 4), torch.tensor([3, 3, 8]), 4
    walk = dense_walk(pool, k)
    start = np.eye(12)[:, [3, 3, 8]]
    mass = start
    for _ in range(30):
        mass = 0.9 * walk @ mass + 0.1 * start
    expected = mass / mass.sum(0)
    found = graph.diffuse(pool, sources, neighbours=k)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("pool", "neighbours"),
    [(2, 15), (900, 15), (3000, 50), (10_000, 120), (50_000, 120), (100_000, 60), (1_000_000, 15)],
)
def test_a_larger_pool_has_more_neighbours_until_its_graph_would_be_too_large(pool: int, neighbours: int) -> None:
    assert graph.neighbours_in(pool) == neighbours


def test_smoothed_values_match_the_recursion_written_with_dense_matrices() -> None:
    pool, values, k = rows(12, 4), rows(12, 3, 1), 4
    walk = dense_walk(pool, k)
    walk /= walk.sum(1, keepdims=True)
    wanted = values.double().numpy()
    for _ in range(5):
        wanted = 0.8 * walk @ wanted + 0.2 * values.double().numpy()
    found = graph.smooth(pool, values, neighbours=k)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_smoothing_keeps_a_common_value_and_brings_neighbours_together() -> None:
    clusters = 5 * rows(3, 8, 9).repeat(20, 1) + rows(60, 8, 1)
    torch.testing.assert_close(graph.smooth(clusters, torch.ones(60, 2)), torch.ones(60, 2))
    torch.testing.assert_close(graph.smooth(clusters[:1], torch.ones(1, 2)), torch.ones(1, 2))
    noise = rows(60, 4, 5)
    calm = graph.smooth(clusters, noise, neighbours=10)
    spread = [values.view(20, 3, 4).std(0).mean() for values in (noise, calm)]
    assert spread[1] < 0.5 * spread[0]
    with pytest.raises(ValueError, match="60 rows of the pool; got 59"):
        graph.smooth(clusters, noise[1:])


def test_a_pool_map_reads_values_off_the_nearest_rows() -> None:
    pool, values = rows(20, 4), rows(20, 3, 1)
    queries = rows(2, 4, 2)
    cosines = (F.normalize(queries, dim=1) @ F.normalize(pool, dim=1).T).double().numpy()
    expected = []
    for row in cosines:
        nearest = np.argsort(-row)[:5]
        weights = np.exp(row[nearest] / 0.1)
        mean = weights @ values[torch.from_numpy(nearest.copy())].double().numpy()
        expected.append(mean / np.linalg.norm(mean))
    found = PoolMap(pool, values, neighbours=5)(queries)
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_a_graph_map_takes_the_root_of_the_mean_mass() -> None:
    pool, masses, queries = rows(20, 4), rows(20, 3, 1).abs(), rows(2, 4, 2)
    expected = F.normalize(F.normalize(masses.square(), dim=1).sqrt(), dim=1)
    torch.testing.assert_close(GraphMap(pool, masses.square()).coordinates(), expected)
    mean = PoolMap(pool, masses, neighbours=5)(queries)
    torch.testing.assert_close(GraphMap(pool, masses, neighbours=5)(queries), F.normalize(mean.sqrt(), dim=1))


def test_every_row_gets_coordinates_even_where_no_walk_arrives() -> None:
    apart = torch.cat([rows(20, 3) * 0.01 + torch.tensor([1.0, 0, 0]), rows(20, 3) * 0.01 + torch.tensor([0, 1.0, 0])])
    left, _ = fit_teacher(apart, apart, torch.tensor([[0, 0], [1, 1]]), neighbours=3)
    coordinates = left.coordinates()
    torch.testing.assert_close(coordinates.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(coordinates[30], torch.full((2,), 0.5**0.5), atol=1e-4, rtol=0)


def test_the_teacher_tells_clusters_by_one_pair_each() -> None:
    centres = 4 * rows(3, 8, 9)
    left = centres.repeat(20, 1) + rows(60, 8, 1)
    right = (centres.repeat(15, 1) + rows(45, 8, 2)) @ rows(8, 10, 3)
    pairs = torch.tensor([[0, 0], [1, 1], [2, 2]])
    of_left, of_right = fit_teacher(left, right, pairs)
    matched = (of_left.coordinates() @ of_right.coordinates().T).argmax(1) % 3
    assert (matched == torch.arange(60) % 3).float().mean() > 0.95
    fresh = (of_left(centres) @ of_right.coordinates().T).argmax(1) % 3
    assert fresh.tolist() == [0, 1, 2]


def test_rows_are_balanced_over_the_pairs_however_many_lie_near_each() -> None:
    centres = 6 * rows(3, 8, 9)
    counts = (120, 30, 10)
    kinds = torch.arange(3).repeat_interleave(torch.tensor(counts))
    pool = centres[kinds] + rows(len(kinds), 8, 1)
    sources = torch.tensor([0, 120, 150])  # one row of each kind
    of_pool, _ = fit_teacher(pool, pool, torch.stack([sources, sources], dim=1), neighbours=8)
    weights = pair_balance(of_pool.coordinates())
    masses = torch.zeros(3).index_add_(0, kinds, weights)
    torch.testing.assert_close(masses, torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_balance_is_the_mean_over_pairs_of_each_rows_share_in_them() -> None:
    coordinates = F.normalize(rows(9, 70).abs(), dim=1)  # more pairs than are taken together
    belongs = coordinates.double().square().numpy()
    expected = [np.mean([belongs[i, j] / belongs[:, j].sum() for j in range(70)]) for i in range(9)]
    np.testing.assert_allclose(pair_balance(coordinates).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("sources", [torch.tensor([], dtype=torch.int64), torch.tensor([12]), torch.tensor([-1])])
def test_sources_that_are_not_there_are_refused(sources: Tensor) -> None:
    with pytest.raises(ValueError, match="pool of 12"):
        graph.diffuse(rows(12, 4), sources)


def test_kept_graphs_and_walks_change_no_bit_and_are_made_once(monkeypatch):
    pool, sources = rows(300, 8, seed=1), torch.arange(0, 150, 2)
    values = rows(300, 4, seed=2)
    whole, smoothed = graph.diffuse(pool, sources), graph.smooth(pool, values)
    graphs, walks = [], []
    new_graph, walk = graph._new_graph, graph._walk
    monkeypatch.setattr(graph, "_new_graph", lambda *given: graphs.append(1) or new_graph(*given))
    monkeypatch.setattr(
        graph, "_walk", lambda product, starts, **how: walks.extend(starts) or walk(product, starts, **how)
    )
    with graph.kept_graphs():
        assert torch.equal(graph.diffuse(pool, sources[:10]), whole[:, :10])
        assert torch.equal(graph.diffuse(pool.clone(), sources[9:]), whole[:, 9:])
        assert torch.equal(graph.diffuse(pool, sources[[3, 3, 70]]), whole[:, [3, 3, 70]])
        assert torch.equal(graph.smooth(pool, values), smoothed)
        assert (len(graphs), sorted(walks)) == (1, sources.tolist())
        assert not torch.equal(graph.diffuse(pool + 0.1, sources), whole)
        assert not torch.equal(graph.diffuse(pool, sources, steps=3), whole)
    graph.diffuse(pool, sources)
    assert len(graphs) == 3, "outside the block nothing is kept"


def test_products_in_several_threads_are_those_of_one(monkeypatch):
    pool, sources = rows(200, 6, seed=3), torch.arange(70)
    alone = graph.diffuse(pool, sources)
    monkeypatch.setattr(graph, "_ROWS_A_THREAD", 13)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert torch.equal(graph.diffuse(pool, sources), alone)


def test_teacher_coordinates_are_those_of_the_maps():
    pools, pairs = (rows(90, 5, seed=4), rows(80, 7, seed=5)), torch.arange(12)
    pairs = torch.stack([pairs, pairs + 3], dim=1)
    maps = fit_teacher(*pools, pairs)
    for found, of_side in zip(teacher_coordinates(*pools, pairs), maps, strict=True):
        assert torch.equal(found, of_side.coordinates())
