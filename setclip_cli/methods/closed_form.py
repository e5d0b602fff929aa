"""Maps that are fitted to the known pairs in closed form, without a training step: what a user would try instead.

Each method takes the frozen features of both pools and the rows of the known pairs, and gives two encoders into one
space. All of them read the features through ``FeatureTransform``, fitted on the unlabelled pools.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from setclip_cli.encoders import Composed, Encoder, FeatureTransform, GraphMap, LinearMap, RelativeMap
from setclip_cli.encoders.usable import require_usable
from setclip_cli.errors import SetClipError, UsageError, nearest, translated
from setclip_cli.methods.graph_teacher import fit_teacher
from setclip_cli.methods.pairs_needed import require_pairs
from setclip_cli.methods.transport import fit_transport

AXES = 64  # principal axes of each modality that a map sees
RIDGE = 0.1  # against the mean eigenvalue of the pairs' covariance
RANK_TOLERANCE = 1e-9  # of the largest singular value: below, float64 rounding
OTHER_PAIRS = "give more pairs, of items whose features differ, or set method = 'set-clip-plus'"

Maps = tuple[Encoder, Encoder]


def fit_closed_form(method: str, left: Tensor, right: Tensor, pairs: Tensor, *, axes: int = AXES) -> Maps:
    """Fits one of ``METHODS``.

    Args:
        method: ``asif``, ``asif-graph``, ``cca``, ``procrustes`` or ``ridge``.
        left: (n, p) frozen features of the left pool.
        right: (m, q) frozen features of the right pool. Row order means nothing.
        pairs: (b, 2) int64: the left and right rows of each known pair, b > 0.
        axes: Principal axes kept of each side; 0 keeps all.

    Returns:
        An encoder for each side. The cosine of two embeddings is the method's score for that pair.

    Raises:
        SetClipError: an unknown method, too few pairs, pairs that name rows the pools do not have, or pairs whose items
            do not differ enough to fit anything.
    """
    if method not in METHODS:
        raise UsageError(
            f"method {method!r}: is not a training-free method{nearest(method, METHODS)}",
            fix=f"choose one of: {', '.join(METHODS)}",
        )
    check_pairs(method, left, right, pairs)
    left_transform, right_transform = FeatureTransform.fit(left, axes), FeatureTransform.fit(right, axes)
    x, y = left_transform(left), right_transform(right)
    what = f"method {method!r} on {len(pairs)} pairs"
    with translated(what, RuntimeError, found="cannot be fitted to them", fix=OTHER_PAIRS):
        left_map, right_map = METHODS[method](x, y, pairs)
    if not isinstance(left_map, GraphMap):  # its coordinates are above 0 by themselves, and a search costs time
        require_usable(what, (left_map, right_map), (x, y), fix=OTHER_PAIRS)
    return Composed(left_transform, left_map), Composed(right_transform, right_map)


def check_pairs(method: str, left: Tensor, right: Tensor, pairs: Tensor) -> None:
    """Raises SetClipError unless there are as many pairs as the method needs and each names a row of both pools."""
    sizes = torch.tensor([len(left), len(right)], device=pairs.device)
    wrong = ((pairs < 0) | (pairs >= sizes)).any(1)
    if bool(wrong.any()):
        raise SetClipError(
            f"pairs: {int(wrong.sum())} of {len(pairs)} name rows that are not there, first "
            f"{pairs[wrong][0].tolist()}; the pools have {len(left)} and {len(right)}",
            fix="count rows from 0, and give rows of these two pools",
        )
    require_pairs(method, [(left_row, right_row) for left_row, right_row in pairs.tolist()])


def _asif(x: Tensor, y: Tensor, pairs: Tensor) -> Maps:
    """Relative representations: similarity to each pair's item, (relu cos)^4.

    Source: ASIF, Norelli et al. 2023, arXiv:2210.01738.
    """
    return RelativeMap(x[pairs[:, 0]]), RelativeMap(y[pairs[:, 1]])


def _asif_graph(x: Tensor, y: Tensor, pairs: Tensor) -> Maps:
    """Relative representations that follow the data: random walks from each pair's item over each pool's graph.

    Sources: ASIF as above; the walks of Zhou et al. 2004, Learning with Local and Global Consistency (NeurIPS 16).
    """
    return fit_teacher(x, y, pairs)


def _cca(x: Tensor, y: Tensor, pairs: Tensor) -> Maps:
    """Regularised canonical correlation; each direction counts by its correlation.

    Sources: Hotelling 1936 (Biometrika 28); ridge as in Vinod 1976 (J. Econometrics 4).
    """
    return fit_transport(x, y, pairs, seed=0, share=0)


def _procrustes(x: Tensor, y: Tensor, pairs: Tensor) -> Maps:
    """The rotation that brings the left items of the pairs nearest to the right ones.

    Fewer pairs than axes leave some axes undetermined: any rotation of these fits. They are left out.
    Source: Schönemann 1966 (Psychometrika 31).
    """
    u, values, vt = torch.linalg.svd(x[pairs[:, 0]].double().T @ y[pairs[:, 1]].double(), full_matrices=False)
    determined = values > RANK_TOLERANCE * values[0]
    return LinearMap(u[:, determined]), LinearMap(vt[determined].T)


def _ridge(x: Tensor, y: Tensor, pairs: Tensor) -> Maps:
    """Linear regression of the right items on the left ones; the right side stays as it is.

    Source: Hoerl & Kennard 1970 (Technometrics 12).
    """
    a, b = x[pairs[:, 0]].double(), y[pairs[:, 1]].double()
    gram = a.T @ a / len(a)
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return LinearMap(torch.linalg.solve(gram + ridge, a.T @ b / len(a))), LinearMap(torch.eye(b.shape[1]))


METHODS: dict[str, Callable[[Tensor, Tensor, Tensor], Maps]] = {
    "asif": _asif,
    "asif-graph": _asif_graph,
    "cca": _cca,
    "procrustes": _procrustes,
    "ridge": _ridge,
}
