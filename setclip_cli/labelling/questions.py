"""Which questions a labelling session asks, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.labelling.answers import Question
from setclip_cli.labelling.choose import choose_items
from setclip_cli.labelling.labels_folder import Asked, LabelsFile
from setclip_cli.trust.suspects import LEAST_ITEMS, suspect_scores

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.pools import Pools

CHECKS = 10  # suspect pairs in a session


def with_new_questions(
    content: LabelsFile, pools: Pools, count: int, *, side: int = 0, answered: Iterable[tuple[str, str]] = ()
) -> LabelsFile:
    """Adds questions: suspect known pairs, then items until ``count`` of them are about rows of the DATASET.

    What was asked before stays, in its order, also if ``count`` is smaller now.

    Args:
        side: Whose rows the new questions are about.
        answered: (left id, right id) of the pairs that the answers name.
    """
    row_of = [{name: row for row, name in enumerate(pool.ids)} for pool in pools.sides]
    asked = [one.question for one in content.questions if one.question.kind == "partner"]
    here = [
        (each, row_of[each][question.id])
        for question in asked
        for each, pool in enumerate(pools.sides)
        if question.modality == pool.modality and question.id in row_of[each]
    ]
    old = {one.question for one in content.questions}
    checks = [one for one in suspect_pairs(pools) if one.question not in old]
    missing = count - len(here)
    taken = {row for each, row in here if each == side}
    taken |= {row_of[side][pair[side]] for pair in answered if pair[side] in row_of[side]}
    suggestions = choose_items(pools, missing, side=side, exclude=taken) if missing > 0 else []
    items = [
        Asked(question=Question(kind="partner", modality=one.modality, id=one.id), reason=one.reason)
        for one in suggestions
    ]
    return content.model_copy(update={"questions": (*content.questions, *checks, *items)})


def suspect_pairs(pools: Pools) -> list[Asked]:
    """The known pairs that are likely wrong, the most suspect first, ``CHECKS`` at most; none if few are known."""
    if pools.item_count < LEAST_ITEMS:
        return []
    left, right = pools.sides
    found = suspect_scores(left.features, right.features, pools.pairs, pools.items)
    return [
        Asked(
            question=Question(
                kind="check",
                modality=left.modality,
                id=left.ids[int(pools.pairs[pair, 0])],
                partner=right.ids[int(pools.pairs[pair, 1])],
            ),
            reason=f"this known pair is wrong with a probability of {float(found.probability[pair]):.0%}, "
            f"as far as {int(found.others[pair]):,} other known items tell",
        )
        for pair in found.likely()[:CHECKS].tolist()
    ]
