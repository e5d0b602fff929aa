"""push and pull, and hub:NAME in the place of a RUN, against a hub on loopback that huggingface_hub speaks with."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_world
from hub_server import TOKEN, Hub

from setclip_cli import PushOptions, SetClipError, load_model, pull, push
from setclip_cli.encoders import KernelMap, LinearMap, MeanShift, rows_kept
from setclip_cli.remote.copies import local_path
from setclip_cli.remote.place import is_repo, parse_hub
from setclip_cli.verify.verify import verify

REPO = "lab/scenes"
# huggingface_hub sends files in a way that its own HTTP library calls old
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = small_world.make_world(tmp_path_factory.mktemp("hub"))
    code, _, stderr = small_world.align(root, root / "run", "--set", "train.steps=2")
    assert code == 0, stderr
    return root


@pytest.fixture
def run(world: Path) -> Path:
    return world / "run"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with hub_server.serving() as served:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", served.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda _seconds: None)
        yield served


def failing(method: str, part: str, what: int | str, times: int = 10**9) -> Callable[[str, str], int | str | None]:
    left = [times]

    def fails(asked: str, path: str) -> int | str | None:
        if asked == method and part in path and left[0] > 0:
            left[0] -= 1
            return what
        return None

    return fails


def test_a_run_goes_to_the_hub_and_comes_back_the_same(hub: Hub, run: Path, tmp_path: Path) -> None:
    sent = push(run, REPO)
    assert hub.repos[REPO].private
    assert sent.name == f"hub:{REPO}@{hub.repos[REPO].branches['main']}"
    back = pull(REPO, tmp_path / "back")
    assert back.name == sent.name
    for name in back.files:
        assert (tmp_path / "back" / name).read_bytes() == (run / name).read_bytes()
    assert load_model(tmp_path / "back").identity == load_model(run).identity
    assert "checkpoints" not in {name.partition("/")[0] for name in hub.files(REPO)}
    again = pull(sent.name, tmp_path / "back")
    assert again.unchanged


def test_a_second_push_of_the_same_makes_no_commit(hub: Hub, run: Path) -> None:
    first, second = push(run, REPO), push(run, REPO)
    assert (first.unchanged, second.unchanged) == (False, True)
    assert second.commit == first.commit
    assert len(hub.repos[REPO].commits) == 2  # the one that made the repository, and the RUN


def test_every_command_takes_the_name_for_the_run(hub: Hub, world: Path, run: Path, tmp_path: Path) -> None:
    name = push(run, REPO).name
    for given, out in ((f"hub:{REPO}", "a"), (run, "b")):
        code, _, stderr = small_world.invoke("embed", given, world / "data", "--out", tmp_path / out)
        assert code == 0, stderr
    shards = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.parquet"))
    assert shards
    for shard in shards:
        assert pq.read_table(tmp_path / "a" / shard).equals(pq.read_table(tmp_path / "b" / shard))
    assert json.loads((tmp_path / "a" / "embeddings.json").read_text())["run"] == name  # the commit, not "main"
    code, _, stderr = small_world.invoke(
        "evaluate", name, world / "data", "--out", tmp_path / "report", "--split", "train"
    )
    assert code == 0, stderr
    target = json.loads((tmp_path / "report" / "report.json").read_text())["targets"][0]
    assert (target["name"], target["path"]) == ("scenes", name)
    vectors = load_model(local_path(name)).embed(captions=["a kinase"])
    assert np.array_equal(vectors, load_model(run).embed(captions=["a kinase"]))


def test_a_branch_has_its_own_run_and_a_commit_stays_what_it_was(
    hub: Hub, world: Path, run: Path, tmp_path: Path
) -> None:
    other = world / "other"
    if not other.exists():
        code, _, stderr = small_world.align(world, other, "--set", "train.steps=2", "--set", "seed=5")
        assert code == 0, stderr
    first = push(run, REPO)
    push(other, REPO, PushOptions(revision="v2"))
    assert load_model(local_path(f"hub:{REPO}")).identity == load_model(run).identity
    assert load_model(local_path(f"hub:{REPO}@v2")).identity == load_model(other).identity
    push(other, REPO)
    assert load_model(local_path(f"hub:{REPO}")).identity == load_model(other).identity
    assert load_model(local_path(first.name)).identity == load_model(run).identity
    pull(first.name, tmp_path / "back")
    with pytest.raises(SetClipError, match="holds another RUN than hub:lab/scenes@"):
        pull(REPO, tmp_path / "back")
    assert load_model(tmp_path / "back").identity == load_model(run).identity


def test_a_file_that_the_new_run_lacks_is_removed_and_data_stays_here(hub: Hub, run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "dropped_pairs.csv").write_text("image,caption\na,b\n")
    (copy / "tuned-image.safetensors").write_bytes(b"x")
    (copy / "notes.txt").write_text("mine")
    push(copy, REPO)
    assert "tuned-image.safetensors" in hub.files(REPO)
    assert not {"dropped_pairs.csv", "notes.txt"} & set(hub.files(REPO))
    push(copy, REPO, PushOptions(with_dropped_pairs=True))
    assert list(csv.reader(hub.files(REPO)["dropped_pairs.csv"].decode().splitlines()))[1] == ["a", "b"]
    push(run, REPO)
    assert not {"dropped_pairs.csv", "tuned-image.safetensors"} & set(hub.files(REPO))


def test_what_others_keep_there_is_not_touched(hub: Hub, run: Path) -> None:
    hub.repos[REPO] = hub_server.Repo(private=True)
    hub.commit(REPO, "main", {"pytorch_model.bin": b"theirs"})
    with pytest.raises(SetClipError, match=r"holds other things than a RUN, such as 'pytorch_model.bin'"):
        push(run, REPO)
    assert hub.files(REPO) == {"pytorch_model.bin": b"theirs"}
    with pytest.raises(
        SetClipError, match=r"no whole RUN of setclip: it has no config.json \(it holds 'pytorch_model.bin'"
    ):
        local_path(f"hub:{REPO}")


def test_nothing_becomes_public_by_chance(hub: Hub, run: Path) -> None:
    hub.repos[REPO] = hub_server.Repo(private=False)
    hub.commit(REPO, "main", {})
    with pytest.raises(SetClipError, match="is public already"):
        push(run, REPO)
    assert hub.files(REPO) == {}
    assert not push(run, REPO, PushOptions(public=True)).private
    hub.repos["lab/own"] = hub_server.Repo(private=True)
    hub.commit("lab/own", "main", {})
    with pytest.raises(SetClipError, match=r"is private, and .*public does not change"):
        push(run, "lab/own", PushOptions(public=True))


@pytest.mark.parametrize(
    ("status", "says", "fix"),
    [
        (401, "the hub does not take the token", "check HF_TOKEN"),
        (403, "does not allow it", "rights of the token"),
        (404, "no such repository, or the token may not see it", "check the name"),
        (429, "asks to wait", "later"),
        (500, r"in trouble \(HTTP 500\)", "minutes"),
        (503, r"in trouble \(HTTP 503\)", "minutes"),
    ],
)
@pytest.mark.parametrize("where", ["push", "pull"])
def test_what_the_hub_answers_is_said_in_words(
    hub: Hub, run: Path, tmp_path: Path, status: int, says: str, fix: str, where: str
) -> None:
    def act() -> Any:
        return push(run, REPO) if where == "push" else pull(REPO, tmp_path / "out")

    if where == "pull":
        push(run, REPO)
        hub.fails = failing("GET", f"/api/models/{REPO}", status)
    else:
        hub.fails = failing("POST", "/commit/", status)
    with pytest.raises(SetClipError, match=says) as caught:
        act()
    assert fix in caught.value.fix
    assert TOKEN not in str(caught.value)
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("status", [429, 500, 502])
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: Hub, run: Path, tmp_path: Path, status: int) -> None:
    hub.fails = failing("POST", "/commit/", status, times=1)
    push(run, REPO)
    hub.fails = failing("GET", "/resolve/", status, times=2)
    assert pull(REPO, tmp_path / "out").files


def test_a_file_that_breaks_off_is_asked_again_and_whole(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, REPO)
    hub.fails = failing("GET", "model.safetensors", "cut", times=2)
    pull(REPO, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_without_a_token_a_private_run_is_not_seen(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, REPO)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SetClipError, match="it is private, and no token was found") as caught:
        pull(REPO, tmp_path / "out")
    assert "HF_TOKEN" in caught.value.fix
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(SetClipError, match="does not take the token") as caught:
        pull(REPO, tmp_path / "out")
    assert "hf_wrong" not in str(caught.value)


def test_a_damaged_run_on_the_hub_is_not_taken(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, REPO)
    files = hub.files(REPO) | {"model.safetensors": hub.files(REPO)["initial.safetensors"]}
    hub.commit(REPO, "main", files)
    with pytest.raises(SetClipError, match=r"model.safetensors: .*changed"):
        pull(REPO, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "recipe.toml", "config.json"])
def test_who_pulls_a_damaged_run_is_not_told_to_train(hub: Hub, run: Path, tmp_path: Path, name: str) -> None:
    """Not even for a file that holds no weights; and other commands say the same."""
    push(run, REPO)
    files = hub.files(REPO)
    hub.commit(REPO, "main", files | {name: files[name][:-9] + b"damaged!\n"})
    for act in (lambda: pull(REPO, tmp_path / "out"), lambda: verify(f"hub:{REPO}")):
        with pytest.raises(SetClipError, match=re.escape(name)) as caught:
            act()
        assert "train" not in caught.value.fix
        assert f"hub:{REPO}@REVISION, or tell its owner" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_a_copy_that_was_damaged_here_is_copied_again(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, REPO)
    held = (local_path(f"hub:{REPO}") / "model.safetensors").resolve()
    held.write_bytes(held.read_bytes()[:-1] + b"x")
    with pytest.raises(SetClipError, match="has changed since align") as caught:
        pull(REPO, tmp_path / "out")
    assert caught.value.fix == f"the copy on this machine is damaged: remove {held}, and run the same command again"
    held.unlink()
    assert pull(REPO, tmp_path / "out").files


@pytest.mark.parametrize("failure", ["cut", "restart"])
def test_a_hub_that_always_breaks_off_is_left_soon_with_one_message(
    hub: Hub, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], failure: str
) -> None:
    push(run, REPO)
    hub.fails = failing("GET", "/resolve/", failure)
    hub.asked.clear()
    capfd.readouterr()
    if failure == "restart":
        with pytest.raises(SetClipError, match=r"the connection to .* failed"):
            pull(REPO, tmp_path / "out")
    else:
        with contextlib.suppress(SetClipError):  # each answer brings half of what is left
            pull(REPO, tmp_path / "out")
    files = len(hub.files(REPO))
    assert len([path for method, path in hub.asked if method == "GET" and "/resolve/" in path]) <= 8 * files
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if "the hub failed to answer; asking again" in line]) <= 1
    assert not [line for line in lines if "Error while" in line or "Retry" in line]


@pytest.mark.parametrize("name", ["lab", "hub:lab", "lab@v1"])
def test_a_name_without_an_owner_is_told_the_form(hub: Hub, tmp_path: Path, name: str) -> None:
    with pytest.raises(SetClipError, match="its name has no owner") as caught:
        pull(name, tmp_path / "out")
    assert "OWNER/NAME" in caught.value.fix


def test_nothing_is_pushed_to_a_name_without_an_owner(hub: Hub, run: Path) -> None:
    with pytest.raises(SetClipError, match="with its owner") as caught:
        push(run, "scenes")
    assert "OWNER/NAME" in caught.value.fix
    assert hub.asked == []


def test_a_pull_that_was_stopped_goes_on(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, REPO)
    (tmp_path / "out").mkdir()
    for name in ("recipe.toml", "initial.safetensors"):  # config.json is written last
        (tmp_path / "out" / name).write_bytes((run / name).read_bytes())
    assert not pull(REPO, tmp_path / "out").unchanged
    assert load_model(tmp_path / "out").identity == load_model(run).identity
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(SetClipError, match="exists but is not a RUN folder"):
        pull(REPO, tmp_path / "mine")


def test_offline_takes_the_copy_that_is_here(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    name = push(run, REPO).name
    local_path(f"hub:{REPO}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    for given in (f"hub:{REPO}", f"hub:{REPO}@main", name):
        assert load_model(local_path(given)).identity == load_model(run).identity
        assert "HF_HUB_OFFLINE is set, so the copy of commit" in capsys.readouterr().err
    with pytest.raises(SetClipError, match="HF_HUB_OFFLINE is set, so the hub is not asked"):
        push(run, REPO)
    with pytest.raises(SetClipError, match="there is no copy in the cache"):
        local_path("hub:lab/other")
    assert len(hub.asked) == asked


def test_a_revision_that_is_not_there_is_named(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, REPO)
    with pytest.raises(SetClipError, match="has no branch, tag or commit 'v9'") as caught:
        pull(f"{REPO}@v9", tmp_path / "out")
    assert caught.value.fix.endswith(f"hub:{REPO}")


def test_a_hub_that_cannot_be_reached_is_named(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for act in (lambda: push(run, REPO), lambda: pull(REPO, tmp_path / "out")):
        with pytest.raises(SetClipError, match=r"the connection to http://127\.0\.0\.1:9 failed") as caught:
            act()
        assert "check the network, and HF_ENDPOINT" in caught.value.fix


@pytest.mark.parametrize("command", ["export", "pull", "align", "dry run"])
def test_nothing_is_written_to_a_folder_of_the_name_of_a_repository(
    hub: Hub, world: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    aligned = ("align", world / "recipe.toml", "--data", world / "data")
    words = {"export": ("export", run, "--to", "safetensors"), "pull": ("pull", REPO)}.get(command, aligned)
    more = ("--dry-run",) if command == "dry run" else ()
    code, _, stderr = small_world.invoke(*words, "--out", "hub:lab/new", *more)
    assert code in (2, 3)
    assert "--out hub:lab/new" in stderr
    assert not (tmp_path / "hub:lab").exists()
    assert hub.asked == []


def test_training_starts_from_a_run_on_the_hub(hub: Hub, world: Path, run: Path, tmp_path: Path) -> None:
    push(run, REPO)
    heads = ("--set", "train.steps=1", "--set", "method=clip")
    for start, out in ((f"hub:{REPO}", "a"), (run, "b")):
        code, _, stderr = small_world.align(world, tmp_path / out, *heads, "--set", f'init_from="{start}"')
        assert code == 0, stderr
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_copy_that_is_here_is_not_copied_again(hub: Hub, run: Path) -> None:
    push(run, REPO)
    local_path(f"hub:{REPO}")
    before = hub.sent
    local_path(f"hub:{REPO}")
    assert hub.sent == before


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "../x", "lab/..", "a--b", "lab/.git", "lab/x.git", "lab/ x", "-a", "lab/x@y", "ü/x", "a" * 97]
)
def test_what_is_no_name_is_refused_before_anything_is_asked(hub: Hub, run: Path, name: str) -> None:
    assert not is_repo(name)
    with pytest.raises(SetClipError):
        push(run, name)
    assert hub.asked == []


@pytest.mark.parametrize("name", ["hub:lab/x@", "hub:lab/x@../..", "hub:lab/x@-f", "hub:lab/x@a b"])
def test_what_is_no_revision_is_refused(name: str) -> None:
    with pytest.raises(SetClipError, match="is not the name of a branch, a tag or a commit"):
        parse_hub(name)


def test_the_card_tells_the_hub_licence_tags_and_metrics(hub: Hub, world: Path, run: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    report = tmp_path / "report"
    code, _, stderr = small_world.invoke("evaluate", run, world / "data", "--out", report, "--split", "train")
    assert code == 0, stderr
    push(run, REPO, PushOptions(report=report))
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    assert card.data.license == "unknown"
    assert card.data.library_name == "setclip"
    assert {"setclip", "protein", "text"} <= set(card.data.tags)
    content = json.loads((report / "report.json").read_text())
    metrics = content["targets"][0]["metrics"]
    told = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert "protein_to_caption/recall_at_1" in told
    assert told == {key: pytest.approx(metrics[key]["value"], abs=5e-5) for key in told}
    assert not any(key.startswith("geometry/") for key in told)
    old = json.dumps(content)
    for change in (("seed", 77), ("path", "runs/another"), ("method", "cca")):
        content = json.loads(old)
        content["targets"][0][change[0]] = change[1]
        (report / "report.json").write_text(json.dumps(content))
        with pytest.raises(SetClipError, match="is not about"):
            push(run, REPO, PushOptions(report=report))
    (report / "report.json").write_text(json.dumps(json.loads(old) | {"modalities": ["image", "caption"]}))
    with pytest.raises(SetClipError, match="is not about"):
        push(run, REPO, PushOptions(report=report))


def test_every_file_of_a_run_is_known_by_its_name(run: Path) -> None:
    """Else a hub, or a web server, would give a RUN that lacks it."""
    from setclip_cli.remote.run_files import DROPPED_NAME, is_run_file, names_of_towers, tuned_name
    from setclip_cli.run.folder import SELECTION_NAME
    from setclip_cli.trust.saved import CALIBRATION_NAME

    written = {path.name for path in run.iterdir() if path.is_file() and path.name != ".lock"}
    more = {SELECTION_NAME, CALIBRATION_NAME, DROPPED_NAME, tuned_name("caption")}
    assert all(map(is_run_file, written | more))
    assert written | more == {"config.json", *names_of_towers(["caption"])}
    assert not any(
        map(is_run_file, ("notes.txt", "tuned-a/b.safetensors", "checkpoints", "model.bin", "../config.json"))
    )


def test_what_a_model_keeps_of_the_data_is_counted() -> None:
    import torch

    kernel = KernelMap(torch.randn(7, 3), torch.randn(7, 4), width=1.0)
    assert rows_kept(kernel) == 7
    assert rows_kept(MeanShift(kernel, torch.randn(5, 4), torch.randn(6, 4), share=0.5)) == 7
    assert rows_kept(MeanShift(kernel, torch.randn(9, 4), torch.randn(6, 4), share=0.5)) == 9
    assert rows_kept(LinearMap(torch.randn(4, 3))) == 0
