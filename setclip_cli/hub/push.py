"""`setclip push`: a finished RUN becomes a repository on a model hub, in one commit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note
from setclip_cli.encoders import rows_kept
from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.hub.card import card_for_hub
from setclip_cli.hub.options import PushOptions
from setclip_cli.options import path_of
from setclip_cli.remote.arguments import takes_places
from setclip_cli.remote.hub import asked, open_hub
from setclip_cli.remote.place import is_repo, parse_hub
from setclip_cli.remote.run_files import DROPPED_NAME, is_run_file
from setclip_cli.run.model import load_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from setclip_cli.remote.place import Place

_OF_THE_HUB = (".gitattributes", "README.md", ".gitignore")


@dataclass(frozen=True)
class PushResult:
    """What was sent.

    Attributes:
        name: ``hub:NAME@COMMIT``, which every command takes for the RUN.
        files: The files of the repository that were sent.
        unchanged: Whether the hub had all of this already.
    """

    name: str
    repo: str
    commit: str
    private: bool
    files: tuple[str, ...]
    bytes: int
    unchanged: bool

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        seen = "only you and whom you allow see it" if self.private else "everybody sees it"
        if self.unchanged:
            return f"{self.name}: holds this RUN already; {seen}"
        return f"{self.name}: {len(self.files)} files, {self.bytes:,} bytes; {seen}"


@takes_places("run")
def push(run: str | Path, repo: str, options: PushOptions = PushOptions()) -> PushResult:
    """Sends a finished RUN to a model hub, in one commit: readers see all of it or nothing of it.

    Args:
        run: The RUN folder.
        repo: ``OWNER/NAME``. The repository is made if it is missing, and is private unless ``options.public``.
        options: What goes along.

    Raises:
        SetClipError: the RUN cannot be read or has changed, the report is not of this RUN, the repository holds
            something else or is public, or the hub does not take it.
    """
    run = path_of(run, "run")
    place = _place(repo, options.revision)
    model = load_model(run)
    card = card_for_hub(run, repo, report=None if options.report is None else Path(options.report))
    files = sorted(path for path in run.iterdir() if path.is_file() and _is_sent(path.name, options))
    hub = open_hub()
    private = _made(hub, place, repo, options)
    there = asked(place, lambda: hub.list_repo_files(repo, revision=options.revision), "read")
    commit = _sent(hub, place, repo, options.revision, files, card, _to_remove(place, there, files))
    for modality, encoder in model.encoders.items():
        if kept := rows_kept(encoder):
            note(
                f"note: the {modality} tower of method {model.config.method} holds vectors of {kept:,} rows of your "
                "data; they are part of what was sent"
            )
    old = asked(place, lambda: hub.repo_info(repo, revision=options.revision).sha, "read")
    total = sum(path.stat().st_size for path in files if path.name != "README.md") + len(card.encode())
    return PushResult(
        name=f"hub:{repo}@{commit or old}",
        repo=repo,
        commit=str(commit or old),
        private=private,
        files=tuple(path.name for path in files),
        bytes=total,
        unchanged=commit is None,
    )


def _place(repo: str, revision: str | None) -> Place:
    if not is_repo(repo) or "/" not in repo:
        raise UsageError(
            f"{argument('repo')} {repo}: is not the name of a repository with its owner",
            fix="write OWNER/NAME, with letters, digits and single - _ . in the names",
        )
    return parse_hub(f"hub:{repo}" if revision is None else f"hub:{repo}@{revision}")


def _is_sent(name: str, options: PushOptions) -> bool:
    return is_run_file(name) and (name != DROPPED_NAME or options.with_dropped_pairs)


def _made(hub: HfApi, place: Place, repo: str, options: PushOptions) -> bool:
    """Makes the repository and the branch if they are missing; whether the repository is private."""
    asked(place, lambda: hub.create_repo(repo, private=not options.public, exist_ok=True), "made")
    private = bool(asked(place, lambda: hub.repo_info(repo), "read").private)
    if not private and not options.public:
        raise SetClipError(
            f"hub:{repo}: is public already: everybody could read the RUN",
            fix=f"nothing was sent; say so with {argument('public')}, or choose another {argument('repo')}",
        )
    if private and options.public:
        raise SetClipError(
            f"hub:{repo}: is private, and {argument('public')} does not change a repository that is there",
            fix=f"make it public on its page, or leave {argument('public')} out",
        )
    if options.revision is not None:
        asked(place, lambda: hub.create_branch(repo, branch=str(options.revision), exist_ok=True), "made")
    return private


def _to_remove(place: Place, there: list[str], files: list[Path]) -> list[str]:
    """The files of an earlier RUN that this one does not have.

    Raises:
        SetClipError: the repository holds other things than a RUN.
    """
    foreign = [name for name in there if name not in _OF_THE_HUB and not is_run_file(name)]
    if foreign:
        raise SetClipError(
            f"{place.shown}: holds other things than a RUN, such as {foreign[0]!r}; nothing was sent",
            fix=f"choose another {argument('repo')} or another {argument('revision')}",
        )
    sent = {path.name for path in files}
    return [name for name in there if name not in sent and name not in _OF_THE_HUB]


def _sent(
    hub: HfApi, place: Place, repo: str, revision: str | None, files: list[Path], card: str, gone: list[str]
) -> str | None:
    """Sends all files in one commit; its name, or None if nothing has changed."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def send() -> str | None:
        before = hub.repo_info(repo, revision=revision).sha
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path.name, card.encode() if path.name == "README.md" else path) for path in files
        ]
        operations += [CommitOperationDelete(name) for name in gone]
        made = hub.create_commit(
            repo,
            operations,
            commit_message="A RUN of setclip",
            revision=revision,
            parent_commit=before,
        )
        return None if made.oid == before else str(made.oid)

    return asked(place, send, "written")
