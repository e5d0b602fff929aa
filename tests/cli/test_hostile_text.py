"""One hostile text as label, id, caption, file name and class, through every command, into all that people read."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import unicodedata
from pathlib import Path

import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

from setclip_cli.cli.app import app
from setclip_cli.console import code_in_markdown, in_markdown

CONTROLS = "\r\n  fix: rm -rf /\x1b[31m\x9b2J\x07"
UNSEEN = "a|b`c*_[x](http://evil.example)<b>\u202e\u2066\u200b#\U0001f600"
HOSTILE = UNSEEN + CONTROLS
FILE_NAME = HOSTILE.replace("/", "-")
ID = UNSEEN.replace("/", "-")  # records whose id holds control characters are rejected
ALLOWED = {"\n", "\u200d", "\ufe0f"}


def assert_safe(text: str, where: str) -> None:
    for character in text:
        if character not in ALLOWED and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            at = text.index(character)
            raise AssertionError(f"{where}: {character!r} in {text[max(0, at - 60) : at + 60]!r}")
    assert not re.search(r"^\s*fix: rm", text, re.MULTILINE), f"{where}: data speak as setclip"


def assert_whole_tables(text: str, where: str) -> None:
    """Every row of a Markdown table has the cells that its head has."""
    cells = 0
    for line in text.splitlines():
        plain = "" if line.startswith("    ") else re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)  # without code
        assert not re.search(r"(?<!\\)\]\(|<|://evil", plain), f"{where}: {line}"
        found = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert found in (cells, 0) or cells == 0, f"{where}: {line}"
        cells = found


def setclip(folder: Path, *words: object, code: int = 0) -> str:
    """What the program prints on both streams."""
    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, [*map(str, words)])
    told = done.stderr + done.stdout
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, told
    assert_safe(done.stdout, f"stdout of {words[0]}")
    assert_safe(done.stderr, f"stderr of {words[0]}")
    return told


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose names and labels are hostile, captions with a hostile id, text, group and label, and a recipe."""
    root = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SETCLIP_CACHE", str(root / "cache"))
        yield _filled(root)


def _filled(root: Path) -> Path:
    pictures, captions, labels, pairs = root / "pictures", [], [], []
    pictures.mkdir()
    for number in range(8):
        name = f"{number}{ID}.png"
        Image.new("RGB", (32, 32), (number * 30, 255 - number * 30, 90)).save(pictures / name, "PNG")
        kind = f"{HOSTILE}{number % 2}"
        labels.append((name, kind))
        captions.append({"id": f"c{number}{ID}", "text": f"view {number} {HOSTILE}", "group": name, "label": kind})
        pairs.append(("image", name, "caption", f"c{number}{ID}"))
    (pictures / f"broken{FILE_NAME}.png").write_bytes(b"no image")
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, captions)))
    _write_csv(root / "labels.csv", [("id", "label"), *labels, (f"gone{HOSTILE}", "x")])
    head = ("left_modality", "left_id", "right_modality", "right_id")
    _write_csv(root / "pairs.csv", [head, *pairs, ("image", f"gone{HOSTILE}", "caption", "c0")])
    (root / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "asif"
        [train]
        split = "test"
        [towers.image]
        backbone = "timm:{tiny.TINY_TIMM}"
        weights = "{tiny.timm_weights(root)}"
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = "{tiny.sentence_folder(root / "text")}"
        """
    )
    images = ("ingest", pictures, "--modality", "image", "--labels", "labels.csv", "--split", "test", "--out", "data")
    told = setclip(root, *images)
    assert "left out" in told
    setclip(
        root,
        "ingest",
        "captions.jsonl",
        "--modality",
        "caption",
        "--split",
        "test",
        "--pairs",
        "pairs.csv",
        "--out",
        "data",
    )
    setclip(root, "align", "recipe.toml", "--data", "data", "--out", f"run{FILE_NAME}")
    return root


def _write_csv(path: Path, rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), newline="")


RUN = f"run{FILE_NAME}"


def test_the_model_card_is_safe(world: Path) -> None:
    text = (world / RUN / "README.md").read_text()
    assert_safe(text, "README.md")
    assert_whole_tables(text, "README.md")


def test_embed_and_search_are_safe(world: Path) -> None:
    setclip(world, "embed", RUN, "data", "--out", "embeddings")
    told = setclip(world, "search", "embeddings", HOSTILE, "--as", "caption", "--sheet", "sheet.png")
    assert r"\x1b[31m\x9b2J" in told
    told = setclip(world, "search", "embeddings", f"pictures/0{ID}.png", "--as", "image", "--in", "caption")
    assert re.findall(r"^ +\d+ ", told, re.MULTILINE) == [f"{rank:>3} " for rank in range(1, 9)], told
    setclip(world, "ingest", "--verify", "data")
    for folder in ("data", RUN, "embeddings"):
        setclip(world, "verify", folder)


def test_the_report_is_safe(world: Path) -> None:
    words = ("--baselines", "none", "--relevance", "label", "--fail-under", "image_to_caption/map=1")
    setclip(world, "evaluate", RUN, "data", "--out", f"report{FILE_NAME}", *words, code=4)
    for name in ("report.md", "report.html"):
        text = (world / f"report{FILE_NAME}" / name).read_text()
        assert_safe(text, name)
        if name.endswith(".md"):
            assert_whole_tables(text, name)
    assert r"\x1b[31m" in text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ingest", HOSTILE, "--modality", "image", "--out", "o"), 3),
        (("ingest", "captions.jsonl", "--modality", "caption", "--format", HOSTILE, "--out", "o"), 3),
        (("ingest", "captions.jsonl", "--modality", HOSTILE, "--out", "o"), 2),
        (("ingest", "captions.jsonl", "--modality", "caption", "--text-column", HOSTILE, "--out", "o"), 3),
        (("ingest", "pictures", "--modality", "image", "--split", HOSTILE, "--out", "o"), 2),
        (("align", HOSTILE, "--data", "data", "--out", "o"), 2),
        (("align", "recipe.toml", "--data", HOSTILE, "--out", "o"), 3),
        (("align", "recipe.toml", "--data", "data", "--out", "o", "--set", f"method={HOSTILE}"), 2),
        (("align", "recipe.toml", "--data", "data", "--out", "o", "--set", f"{HOSTILE}=1"), 2),
        (("embed", HOSTILE, "data", "--out", "o"), 3),
        (("embed", RUN, "data", "--out", "o", "--split", HOSTILE), 3),
        (("embed", "data", "--backbone", HOSTILE, "--out", "o"), 2),
        (("search", HOSTILE, "x"), 3),
        (("evaluate", HOSTILE, "data", "--out", "o"), 3),
        (("evaluate", RUN, "data", "--out", "o", "--baselines", HOSTILE), 2),
        (("evaluate", RUN, "data", "--out", "o", "--fail-under", f"{HOSTILE}=1"), 2),
        (("evaluate", RUN, "data", "--out", "o", "--task-set", HOSTILE), 2),
        (("evaluate", RUN, "data", "--out", "o", "--split", HOSTILE), 3),
        (("study", HOSTILE, "--data", "data", "--out", "o"), 2),
        (("recipes", "show", HOSTILE), 2),
        ((HOSTILE,), 2),
        (("align", f"--{HOSTILE}"), 2),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value).replace(HOSTILE, "HOSTILE")[:60],
)
def test_messages_are_safe(world: Path, words: tuple[str, ...], code: int) -> None:
    assert setclip(world, *words, code=code)


@pytest.mark.parametrize(
    "text", [HOSTILE, "a_b", "__x__", "- item", "# head", "https://evil.example", "www.evil.example", "&lt;"]
)
def test_text_in_markdown_is_no_mark_up(text: str) -> None:
    found = in_markdown(text)
    assert_safe(found, text)
    assert not re.search(r"(?<!\\)[|`*\[\]<>]|^[-#]|://|www\.|(?<!\\)__", found)


@pytest.mark.parametrize("text", [HOSTILE, "`", "a`b``c", "", " x ", "plain"])
def test_code_in_markdown_ends_where_it_should(text: str) -> None:
    found = code_in_markdown(text)
    fence = re.match("`+", found)
    assert fence
    inner = found[len(fence[0]) : -len(fence[0])]
    assert found.endswith(fence[0])
    assert fence[0] not in re.findall("`+", inner)
    assert "|" not in found
