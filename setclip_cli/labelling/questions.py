"""Which questions a labelling session asks, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from setclip_cli.labelling.answers import Question
from setclip_cli.labelling.choose import choose_items
from setclip_cli.labelling.labels_folder import Asked, LabelsFile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.pools import Pools


def with_new_questions(
    content: LabelsFile, pools: Pools, count: int, *, side: int = 0, answered: Iterable[tuple[str, str]] = ()
) -> LabelsFile:
    """Adds questions until ``count`` of those that ask for a partner are about rows of the DATASET.

    What was asked before stays, in its order, also if ``count`` is smaller now.

    Args:
        side: Whose rows the new questions are about.
        answered: (left id, right id) of the pairs that the answers name: they are known, as those of the DATASET are.
    """
    row_of = [{name: row for row, name in enumerate(pool.ids)} for pool in pools.sides]
    asked = [one.question for one in content.questions if one.question.kind == "partner"]
    here = [
        (each, row_of[each][question.id])
        for question in asked
        for each, pool in enumerate(pools.sides)
        if question.modality == pool.modality and question.id in row_of[each]
    ]
    missing = count - len(here)
    if missing < 1:
        return content
    new = [(row_of[0][one], row_of[1][other]) for one, other in answered if one in row_of[0] and other in row_of[1]]
    known = torch.cat([pools.pairs, torch.tensor(new, dtype=torch.int64).reshape(-1, 2)])
    suggestions = choose_items(
        replace(pools, pairs=known), missing, side=side, exclude={row for each, row in here if each == side}
    )
    return content.model_copy(
        update={
            "questions": (
                *content.questions,
                *(
                    Asked(question=Question(kind="partner", modality=one.modality, id=one.id), reason=one.reason)
                    for one in suggestions
                ),
            )
        }
    )
