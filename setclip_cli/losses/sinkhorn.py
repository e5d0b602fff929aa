"""The Sinkhorn iteration: the balanced soft matching of two sets, which two terms teach to the embeddings."""

from __future__ import annotations

import math

from torch import Tensor


def sinkhorn(logits: Tensor, iterations: int) -> Tensor:
    """Scales rows and columns of exp(logits) in turn until all rows have one mass and all columns have one mass.

    Args:
        logits: (n, m) similarity over the entropic regularisation.
        iterations: Sweeps. Each scales the rows, then the columns.

    Returns:
        (n, m) log of diag(a) exp(logits) diag(b). Each column sums to 1/m; each row sums to 1/n in the limit.

    Source: Cuturi 2013, arXiv:1306.0895, in log space.
    """
    n, m = logits.shape
    for _ in range(iterations):
        logits = logits - logits.logsumexp(1, keepdim=True) - math.log(n)
        logits = logits - logits.logsumexp(0, keepdim=True) - math.log(m)
    return logits
