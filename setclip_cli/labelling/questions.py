"""Which questions a labelling session asks, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli.labelling.answers import Question
from setclip_cli.labelling.labels_folder import Asked, LabelsFile

if TYPE_CHECKING:
    from setclip_cli.pools import Pools


def with_new_questions(content: LabelsFile, pools: Pools, count: int) -> LabelsFile:
    """Adds questions until ``count`` of those that ask for a partner are about rows of the DATASET.

    What was asked before stays, in its order, also if ``count`` is smaller now.
    """
    here = {pool.modality: set(pool.ids) for pool in pools.sides}
    open_or_answered = [one for one in content.questions if one.question.id in here[one.question.modality]]
    missing = count - sum(one.question.kind == "partner" for one in open_or_answered)
    known = {(one.question.modality, one.question.id) for one in content.questions}
    left = pools.left
    paired = set(pools.pairs[:, 0].tolist())
    free = [row for row in range(len(left.ids)) if row not in paired and (left.modality, left.ids[row]) not in known]
    step = max(1, len(free) // max(1, missing))
    new = [
        Asked(question=Question(kind="partner", modality=left.modality, id=left.ids[row]), reason="")
        for row in free[::step][: max(0, missing)]
    ]
    return content.model_copy(update={"questions": (*content.questions, *new)})
