"""`setclip label`: asks a person for partners, one item after another, in a page of this computer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setclip_cli.console import note, text_of_lines, warning
from setclip_cli.labelling.answers import PAIRS_NAME, Answers
from setclip_cli.labelling.candidates import Partners
from setclip_cli.labelling.choose import side_of
from setclip_cli.labelling.labels_folder import one_session, read_labels_file, write_labels_file
from setclip_cli.labelling.meaning import Meaning
from setclip_cli.labelling.next_steps import Running, as_typed, next_commands
from setclip_cli.labelling.options import LabelOptions
from setclip_cli.labelling.questions import with_new_questions
from setclip_cli.labelling.server import label_app
from setclip_cli.labelling.session import Session, gone_in_words, require_known_rows
from setclip_cli.options import path_of
from setclip_cli.pools import open_towers, read_pools
from setclip_cli.remote.arguments import takes_places
from setclip_cli.web.local_app import new_token
from setclip_cli.web.rows import Rows
from setclip_cli.web.serving import LocalServer, open_in_browser, port_of, take_port

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class LabelResult:
    """How far the answers are when the page is closed.

    Attributes:
        pairs: The file for `setclip ingest --pairs`.
        questions: How many are asked in all.
        partners, none, skipped, right, wrong: Questions with each answer.
        commands: What comes next, as a person types it.
    """

    pairs: Path
    questions: int
    partners: int
    none: int
    skipped: int
    right: int
    wrong: int
    commands: list[str]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "pairs": str(self.pairs)}

    def summary(self) -> str:
        answered = self.partners + self.none + self.right + self.wrong
        lines = [
            f"{answered} of {self.questions} questions answered: {self.partners} with a partner, {self.none} without "
            f"one, {self.skipped} skipped",
        ]
        if self.right or self.wrong:
            lines.append(f"known pairs: {self.right} right, {self.wrong} wrong")
        if answered + self.skipped < self.questions:
            lines.append("run the same command again to go on")
        if self.commands:
            lines += [f"the pairs are in {self.pairs}; what comes next:", *(f"  {each}" for each in self.commands)]
        return text_of_lines(lines)


@takes_places("dataset")
def label(
    dataset: str | Path,
    out: str | Path,
    *,
    options: LabelOptions = LabelOptions(),
    ready: Callable[[str], None] = lambda _address: None,
    served: Callable[[LocalServer], None] = lambda _server: None,
) -> LabelResult:
    """Serves the page until the person ends it, in the page or with Ctrl-C.

    Args:
        dataset: The DATASET.
        out: LABELS; if there are answers in it, the session goes on.
        ready: Is called with the address as soon as the page can be opened.
        served: Is called with the server before, for a caller that wants to stop it.

    Raises:
        SetClipError: the DATASET lacks a side, another session has LABELS, the port is in use, or as `read_pools`.
    """
    folder = path_of(out, "out")
    with closing(take_port(options.port)) as taken, one_session(folder):
        towers = open_towers(dataset, run=options.run, recipe=options.recipe, split=options.split)
        split = options.split or towers.recipe.train.split
        content = read_labels_file(folder, towers.dataset, towers.recipe.modalities(), split)
        pools = read_pools(towers.dataset, split=split, towers=towers)
        rows = tuple(Rows(pools.dataset, pool.modality, pools.split) for pool in pools.sides)
        answers = Answers(folder, (pools.left.modality, pools.right.modality))
        side = side_of(pools, options.side) or 0
        content = with_new_questions(content, pools, options.count, side=side, answered=answers.pairs())
        session = Session(pools, (rows[0], rows[1]), answers, content.questions, Partners(pools), Meaning(pools))
        require_known_rows(session)
        write_labels_file(folder, content)
        if told := gone_in_words(session):
            warning(told)

        def commands() -> list[list[str]]:
            return next_commands(folder, pools, answers, recipe=options.recipe)

        running = Running(commands)
        token, port = new_token(), port_of(taken)
        address = f"http://127.0.0.1:{port}/?token={token}"

        def say_ready() -> None:
            note(f"ready: {address}")
            note("answer there; press Ctrl-C here to stop. Every answer is on disk, and the same command goes on")
            if not options.no_browser:
                open_in_browser(address)
            ready(address)

        server = LocalServer(
            label_app(session, commands, running, port=port, token=token, stop=lambda: server.stop()), ready=say_ready
        )
        served(server)
        try:
            server.run(sockets=[taken])
        finally:
            if running.end():
                note("the training that the page had started was stopped; `setclip align ... --resume` goes on with it")
        counts = answers.counts()
        return LabelResult(
            pairs=folder / PAIRS_NAME,
            questions=len(session.asked),
            partners=counts["partner"],
            none=counts["none"],
            skipped=counts["skip"],
            right=counts["right"],
            wrong=counts["wrong"],
            commands=[as_typed(words) for words in commands()],
        )
