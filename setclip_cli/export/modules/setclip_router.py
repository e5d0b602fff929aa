"""The Router of sentence-transformers, which refuses a name that no tower has.

The library's own takes the tower that reads such items then: texts named {"protien": ...} would become captions.
"""

from __future__ import annotations

from typing import Any

from sentence_transformers.base.modules import Router

TASKS_OF_LIBRARY = ("query", "document")  # what encode_query and encode_document say


class SetClipRouter(Router):
    """One tower for each modality, by its name or by the kind of the items."""

    def _resolve_route(self, task: str | None = None, modality: Any = None) -> str | None:
        if task is not None and task not in self.sub_modules and task not in TASKS_OF_LIBRARY:
            raise ValueError(f"{task!r}: this model has no tower of this name, only {', '.join(self.sub_modules)}")
        route: str | None = super()._resolve_route(task=task, modality=modality)
        return route
