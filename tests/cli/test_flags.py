"""An options class gives a command its flags, and Python the same checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from setclip_cli.cli.flags import with_options
from setclip_cli.errors import ExitCode, SetClipError, argument
from setclip_cli.options import Flag, Options


def positive(text: str) -> int:
    if not text.isdigit():
        raise ValueError(f"{text!r} is not a number")
    return int(text)


@dataclass(frozen=True)
class SomeOptions(Options):
    share: Annotated[float, Flag("A share.", least=0, most=1)] = 0.5
    kind_of_row: Annotated[Literal["image", "caption"] | None, Flag("A kind.")] = None
    layout: Annotated[str, Flag("A layout.", name="--format")] = "csv"
    gates: Annotated[tuple[str, ...], Flag("Repeated.", name="--gate")] = ()
    rows: Annotated[int | None, Flag("Rows.", metavar="N", parse=positive)] = None


app = typer.Typer()
got: list[SomeOptions] = []


@app.command()
@with_options(SomeOptions)
def command(path: Annotated[str, typer.Argument()], *, options: SomeOptions, as_json: bool = False) -> None:
    got.append(options)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_flags_fill_the_object_in_and_defaults_are_those_of_the_class() -> None:
    words = "--share 0.1 --kind-of-row image --format tsv --gate a --gate b --rows 7"
    assert run("here", *words.split())[0] == 0
    assert got[-1] == SomeOptions(0.1, "image", "tsv", ("a", "b"), 7)
    assert run("here")[0] == 0
    assert got[-1] == SomeOptions()


@pytest.mark.parametrize(
    ("words", "values"),
    [(("--share", "1.5"), {"share": 1.5}), (("--kind-of-row", "imag"), {"kind_of_row": "imag"}),
     (("--rows", "x"), None)],
)  # fmt: skip
def test_a_wrong_value_is_a_usage_error_on_both_sides(words: tuple[str, str], values: dict[str, object] | None) -> None:
    code, output = run("here", *words)
    assert code == ExitCode.USAGE
    assert words[0] in output
    if values is not None:
        with pytest.raises(SetClipError, match=next(iter(values))) as found:
            SomeOptions(**values)  # type: ignore[arg-type]
        assert found.value.exit_code == ExitCode.USAGE


def test_a_message_names_arguments_in_python_and_flags_on_the_command_line() -> None:
    error = SetClipError(f"{argument('max_bad_fraction')} 2: no", fix=f"leave {argument('layout', '--format')} out")
    assert str(error) == "max_bad_fraction 2: no\n  fix: leave layout out"
    assert error.for_command_line() == ("--max-bad-fraction 2: no", "leave --format out")
    assert (error.problem, error.fix) == ("max_bad_fraction 2: no", "leave layout out")


def test_the_nearest_choice_is_named() -> None:
    with pytest.raises(SetClipError, match="did you mean 'caption'"):
        SomeOptions(kind_of_row="captoin")  # type: ignore[arg-type]
