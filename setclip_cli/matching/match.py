"""`match`: the best partners of all rows of a DATASET by a RUN, each with the probability that it is right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from setclip_cli.console import note, progress, text_of_lines
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files import atomic
from setclip_cli.files.documents import signed, unsigned
from setclip_cli.files.folders import refuse_foreign
from setclip_cli.files.lock import exclusive
from setclip_cli.files.what_is import what_is
from setclip_cli.matching.assignment import assign
from setclip_cli.matching.options import MatchOptions
from setclip_cli.matching.table import CSV_NAME, PARQUET_NAME, Block, write_csv, write_parquet
from setclip_cli.options import path_of
from setclip_cli.places import named
from setclip_cli.pools import read_pools
from setclip_cli.remote.arguments import takes_places
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model
from setclip_cli.trust.answers import Answers, best_answers
from setclip_cli.trust.probability import Sets, conformal_sets, in_sets, no_partner, probabilities
from setclip_cli.trust.saved import CALIBRATION_NAME, Calibration, read_calibration, why_not
from setclip_cli.trust.unmatched import LEAST_ITEMS as LEAST_KNOWN
from setclip_cli.trust.unmatched import unmatched_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from setclip_cli.pools import Pools
    from setclip_cli.trust.probability import Directions
    from setclip_cli.trust.unmatched import UnmatchedRows

INDEX_NAME = "matches.json"
QUERIES = 20_000  # whose answers are written at a time
_ANY = 0.05  # a temperature where no probability is asked for


@dataclass(frozen=True)
class MatchResult:
    """What `match` wrote.

    Attributes:
        out: The folder.
        reused: The same matches were there already.
        content: The content of matches.json.
    """

    out: Path
    reused: bool
    content: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {"out": str(self.out), "reused": self.reused, **self.content}

    def summary(self) -> str:
        if self.reused:
            return text_of_lines([f"{self.out}: matched earlier with this RUN, DATASET and options; nothing to do"])
        content = self.content
        lines = [f"{self.out}: {content['matches']:,} matches in {' and '.join(content['files'])}"]
        for query, found in content["queries"].items():
            line = f"{query}: {found['rows']:,} rows"
            if found["expected_right"] is not None:
                line += (
                    f"; of the first answers to the {found['judged']:,} whose partner was not known about "
                    f"{found['expected_right']:,.0f} are right; a set that holds the partner with "
                    f"{content['coverage']:.0%} coverage has {found['mean_set_size']:,.0f} rows on average"
                )
            lines.append(line)
        if content["why_no_probability"]:
            lines.append(f"ranks only: {content['why_no_probability']}")
        return text_of_lines(lines)


@takes_places("run", "dataset", writes="out")
def match(
    run: str | Path, dataset: Dataset | str | Path, out: str | Path, options: MatchOptions = MatchOptions()
) -> MatchResult:
    """Writes the best partners of all rows: ``out``/matches.parquet, matches.csv, and matches.json last.

    Args:
        run: The RUN folder.
        dataset: The DATASET or its folder.
        out: The folder to write. If it holds the same matches, they are left as they are.
        options: Which answers, and how they are written.

    Raises:
        SetClipError: the RUN or the DATASET cannot be read or lacks a side, ``out`` holds something else, or a file
            cannot be written.
    """
    run, out = path_of(run, "run"), path_of(out, "out")
    if options.one_to_one and options.top > 1:
        raise UsageError(
            f"{argument('top')} {options.top}: {argument('one_to_one')} gives each row one partner",
            fix=f"leave {argument('top')} or {argument('one_to_one')} out",
        )
    if not isinstance(dataset, Dataset):
        if (what_is(run).kind, what_is(Path(dataset)).kind) == ("dataset", "run"):
            raise UsageError(
                f"{run} is a DATASET and {dataset} is a RUN: they are in the wrong order",
                fix=f"setclip match {dataset} {run} --out {out}",
            )
        dataset = open_dataset(path_of(dataset, "dataset"))
    model = load_model(run)
    calibration = read_calibration(run)
    refuse_foreign(out, "a folder of matches", [INDEX_NAME, PARQUET_NAME, CSV_NAME])
    key = _key(model.identity, run, dataset, options)
    if earlier := _finished(out, key):
        return MatchResult(out, True, earlier)
    pools = read_pools(dataset, run=run, split=options.split)
    for side in pools.sides:
        if not side.ids:
            raise SetClipError(
                f"{dataset.root}: has no {side.modality} rows in split {pools.split!r}",
                fix=f"choose another {argument('split')}, or ingest some",
            )
    with exclusive(out):
        atomic.remove_file(out / INDEX_NAME)
        found = Matches.of(pools, calibration, options)
        names = (pools.left.modality, pools.right.modality)
        write_parquet(out / PARQUET_NAME, found.blocks(), names)
        escaped = write_csv(out / CSV_NAME, out / PARQUET_NAME) if options.format != "parquet" else 0
        if options.format == "csv":
            atomic.remove_file(out / PARQUET_NAME)
        elif options.format == "parquet":
            atomic.remove_file(out / CSV_NAME)
        files = [name for name in (PARQUET_NAME, CSV_NAME) if (out / name).exists()]
        why, fix = ("", "") if calibration else why_not(run, load_config(run))
        content = {
            "schema_version": 1,
            **key,
            "dataset": named(dataset.root),
            "run": named(run),
            "split": pools.split,
            "modalities": list(names),
            "matches": found.count,
            "queries": found.told(),
            "calibration": None
            if calibration is None
            else calibration.model_dump(include={"source", "split", "held_out_items", "held_out_pairs"}),
            "coverage": options.coverage,
            "guarantee": None if calibration is None else calibration.guarantee(),
            "why_no_probability": f"{why}; {fix}" if why else None,
            "csv_cells_escaped": escaped,
            "files": {name: atomic.sha256_file(out / name) for name in files},
        }
        atomic.write_text(out / INDEX_NAME, signed(content))
    if why:
        note(f"note: ranks only, no probabilities: {why}\n  - fix: {fix}")
    return MatchResult(out, False, content)


def _key(identity: str, run: Path, dataset: Dataset, options: MatchOptions) -> dict[str, Any]:
    """What decides the bytes of the matches."""
    path = run / CALIBRATION_NAME
    return {
        "model": identity,
        "calibration_sha256": atomic.sha256_file(path) if path.exists() else None,
        "dataset_sha256": dataset.identity(),
        "options": dict(vars(options)),
    }


def _finished(out: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """What matches.json says, if it is of the same matches and all files are whole."""
    try:
        content, unchanged = unsigned((out / INDEX_NAME).read_bytes())
        whole = unchanged and all(atomic.sha256_file(out / name) == sha for name, sha in content["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    same = json.loads(json.dumps(key)) == {name: content.get(name) for name in key}
    return content if whole and same else None


@dataclass(frozen=True)
class Matches:
    """The answers of both pools, before they are written.

    Attributes:
        answers: To left rows and to right rows.
        sets: The conformal sets; None without a calibration.
        unmatched: Which rows have no partner; None if too few pairs are known.
        first: (n,) and (m,) probabilities of the first answers of rows that have a partner.
        no_partner: (n,) and (m,) that a row has no partner.
        assigned: (b, 2) pairs, with ``one_to_one``.
    """

    pools: Pools
    directions: Directions | None
    answers: tuple[Answers, Answers]
    sets: Sets | None
    unmatched: tuple[UnmatchedRows, UnmatchedRows] | None
    first: tuple[Tensor, Tensor] | None
    no_partner: tuple[Tensor, Tensor] | None
    assigned: Tensor | None

    @classmethod
    def of(cls, pools: Pools, calibration: Calibration | None, options: MatchOptions) -> Matches:
        left, right = _embeddings(pools)
        directions = None if calibration is None else calibration.directions()
        temperatures = (_ANY, _ANY) if directions is None else (directions[0].temperature, directions[1].temperature)
        answers = best_answers(left, right, temperatures, options.top)
        sets = None if directions is None else conformal_sets(directions, answers, left, right, options.coverage)
        assigned = assign(left, right) if options.one_to_one else None
        unmatched = _unmatched(pools)
        first = None if directions is None else _first_answers(directions, answers)
        alone = None
        if unmatched is not None:
            alone = unmatched[0].probabilities.double(), unmatched[1].probabilities.double()
            if first is not None:
                alone = no_partner(alone[0], first[0]), no_partner(alone[1], first[1])
        return cls(pools, directions, answers, sets, unmatched, first, alone, assigned)

    @property
    def count(self) -> int:
        if self.assigned is not None:
            return len(self.assigned)
        return sum(answers.rows.numel() for answers in self.answers)

    def blocks(self) -> Iterator[Block]:
        """All answers: those to left rows, then those to right rows; with one_to_one the pairs."""
        if self.assigned is not None:
            for part in progress(torch.split(self.assigned, QUERIES), label="match", unit="block"):
                yield self._block(0, part[:, 0], part[:, 1:], self._cosines(part), _ranks(self.pools, part))
            return
        queries = [
            (side, part) for side in (0, 1) for part in torch.split(torch.arange(len(self.answers[side].rows)), QUERIES)
        ]
        for side, part in progress(queries, label="match", unit="block"):
            yield self.block_of(side, part)

    def block_of(self, side: int, queries: Tensor) -> Block:
        """All answers to the rows ``queries`` (q,) of a side, in their order, the nearest of each first."""
        found = self.answers[side]
        ranks = torch.arange(1, found.rows.shape[1] + 1).expand(len(queries), -1)
        return self._block(side, queries, found.rows[queries], found.cosines[queries], ranks)

    def _cosines(self, pairs: Tensor) -> Tensor:
        left, right = _embeddings(self.pools)
        return (left[pairs[:, 0]] * right[pairs[:, 1]]).sum(1, keepdim=True)

    def _block(self, side: int, queries: Tensor, rows: Tensor, cosines: Tensor, ranks: Tensor) -> Block:
        """The answers ``rows`` (q, k) to the rows ``queries`` (q,) of a side."""
        known, seen = self._known(side, queries, rows)
        unknown = torch.full(rows.shape, torch.nan, dtype=torch.float64)
        probability, another, alone = unknown, unknown, unknown
        if self.no_partner is not None:
            alone = self.no_partner[side][queries, None].expand_as(rows)
        in_set = sizes = np.full(rows.numel(), -1)
        if self.directions is not None and self.sets is not None:
            judged = probabilities(self.directions, self.answers, side, queries, rows, cosines)
            if self.assigned is not None:
                judged = (
                    judged + probabilities(self.directions, self.answers, 1, rows[:, 0], queries[:, None], cosines)
                ) / 2
            has_partner = 1 - alone.nan_to_num(0)
            probability = (has_partner * judged).masked_fill(seen[:, None], torch.nan).masked_fill(known, 1.0)
            another = (has_partner - probability).masked_fill(known, 0.0)
            inside = in_sets(self.sets, self.directions, self.answers, side, queries, rows, cosines)
            in_set = inside.flatten().long().numpy()
            sizes = self.sets.sizes[side][queries, None].expand_as(rows).flatten().numpy()
        own, other = (self.pools.sides[which].ids for which in (side, 1 - side))
        asked = [own[row] for row in queries.tolist() for _ in range(rows.shape[1])]
        found = [other[row] for row in rows.flatten().tolist()]
        return Block(
            self.pools.sides[side].modality,
            *((asked, found) if side == 0 else (found, asked)),
            ranks.flatten().numpy(),
            cosines.double().flatten().numpy(),
            probability.flatten().numpy(),
            another.flatten().numpy(),
            alone.flatten().numpy(),
            in_set,
            sizes,
            known.flatten().numpy(),
        )

    def _known(self, side: int, queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(q, k) bool: which answers are known pairs; (q,) bool: which queries the RUN has seen with a partner."""
        pairs, trained = self.pools.pairs, self.pools.trained_on
        width = len(self.pools.right.ids)
        ends = (queries[:, None].expand_as(rows), rows)[:: 1 if side == 0 else -1]
        known = torch.isin(ends[0] * width + ends[1], pairs[:, 0] * width + pairs[:, 1])
        used = pairs if trained is None else pairs[trained]
        return known, torch.isin(queries, used[:, side])

    def told(self) -> dict[str, Any]:
        """For each modality that was asked: rows, and what is expected of the first answers."""
        told: dict[str, Any] = {}
        for side, (answers, pool) in enumerate(zip(self.answers, self.pools.sides, strict=True)):
            entry: dict[str, Any] = dict.fromkeys(
                ("judged", "expected_right", "mean_set_size", "share_without_partner")
            )
            entry["rows"] = len(pool.ids)
            if self.unmatched is not None:
                found = self.unmatched[side]
                entry["share_without_partner"] = [round(share, 6) for share in (found.share, *found.interval)]
            if self.first is not None and self.sets is not None:
                _, seen = self._known(side, torch.arange(len(answers.rows)), answers.rows[:, :1])
                has_partner = 1.0 if self.no_partner is None else 1 - self.no_partner[side]
                judged = (has_partner * self.first[side])[~seen]
                entry["judged"] = len(judged)
                entry["expected_right"] = round(float(judged.sum()), 3)
                entry["mean_set_size"] = round(float(self.sets.sizes[side].double().mean()), 3)
            told[pool.modality] = entry
        return told


def _embeddings(pools: Pools) -> tuple[Tensor, Tensor]:
    left, right = pools.left.embeddings, pools.right.embeddings
    assert left is not None  # the pools are those of a RUN
    assert right is not None
    return left, right


def _first_answers(directions: Directions, answers: tuple[Answers, Answers]) -> tuple[Tensor, Tensor]:
    """(n,) and (m,) float64: that the first answer to each row is right, if the row has a partner."""
    left, right = (
        probabilities(
            directions, answers, side, torch.arange(len(found.rows)), found.rows[:, :1], found.cosines[:, :1]
        )[:, 0].double()
        for side, found in enumerate(answers)
    )
    return left, right


def _unmatched(pools: Pools) -> tuple[UnmatchedRows, UnmatchedRows] | None:
    """Which rows have no partner in the other pool; None if too few pairs of the split are known to tell."""
    if pools.item_count < LEAST_KNOWN:
        return None
    return unmatched_rows(pools.left.features, pools.right.features, pools.pairs, pools.items, seed=pools.recipe.seed)


def _ranks(pools: Pools, pairs: Tensor) -> Tensor:
    """(b, 1) the rank of each pair's right row among the answers to its left row."""
    left, right = _embeddings(pools)
    found = []
    for part in torch.split(pairs, 256):
        cosines = left[part[:, 0]] @ right.T
        found.append(1 + (cosines > cosines.gather(1, part[:, 1:])).sum(1, keepdim=True))
    return torch.cat(found)
