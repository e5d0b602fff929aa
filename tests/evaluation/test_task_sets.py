"""Every shipped task set loads and says what the data set calls its classes; a broken one is refused by key."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from setclip_cli.errors import SetClipError
from setclip_cli.evaluation.prompts import prompt_prototypes
from setclip_cli.evaluation.task_set import TaskSet, load_task_set
from setclip_cli.files.shipped import names

SIZES = {"eurosat": 10, "uc_merced": 21, "rsscn7": 7, "whu_rs19": 19, "aid": 30, "resisc45": 45,
         "subcellular_location": 10, "enzyme_class": 7}  # fmt: skip


def test_the_shipped_task_sets_are_the_ones_known_here():
    assert set(names("tasks")) == SIZES.keys()


@pytest.mark.parametrize(("name", "classes"), SIZES.items())
def test_a_shipped_task_set_has_all_classes_and_prompts_without_gaps(name, classes):
    task = load_task_set(name)
    assert len(task.classes) == classes
    prompts = [prompt for label in task.classes for prompt in task.prompts(label)]
    assert len(set(prompts)) == len(prompts)
    assert not any("{" in prompt or "_" in prompt for prompt in prompts)


def test_labels_match_however_they_are_spelled():
    task = load_task_set("resisc45")
    assert task.matching(["Baseball-Diamond", "sea ice", "moon", None]) == {
        "Baseball-Diamond": "baseball_diamond",
        "sea ice": "sea_ice",
    }


def test_a_prototype_is_the_unit_mean_of_the_unit_embeddings_of_its_prompts():
    lengths = {"a dog.": [1.0, 0.0], "the dog.": [0.0, 5.0], "a cat.": [0.0, 2.0], "the cat.": [0.0, 1.0]}
    task = TaskSet(
        schema_version=1, modality="image", source="", templates=["a {}.", "the {}."], classes={"1": "dog", "2": "cat"}
    )
    backbone = SimpleNamespace(encode=lambda texts: SimpleNamespace(features=torch.tensor([lengths[t] for t in texts])))
    found = prompt_prototypes(task, ["1", "2"], lambda rows: rows, backbone)
    np.testing.assert_allclose(found, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)


HEAD = "schema_version = 1\nsource = ''\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (HEAD + "modality = 'image'\ntemplates = ['no gap']\nclasses = {a='a', b='b'}", "templates.0"),
        (HEAD + "modality = 'image'\ntemplates = ['{}']\nclasses = {a='a'}", "classes"),
        (HEAD + "modality = 'sound'\ntemplates = ['{}']\nclasses = {a='a', b='b'}", "modality"),
        (HEAD + "nodality = 'image'", "modality"),
        (HEAD + "modality = 'image'\ntemplates = ['{}']\nclasses = {a='a', b=[]}", "classes.b"),
        (HEAD + "modality = 'image'\ntemplates = ['{}']\nclasses = {a='a', b=['b', ' ']}", "classes.b"),
        (HEAD + "modality = 'image'\ntemplates = ['{}']\nclasses = {SeaLake='a', 'sea lake'='b'}", "differ in case"),
        (HEAD + "modality = 'image'\ntemplates = ['{}']\nclasses = {'-'='a', b='b'}", "no letter and no digit"),
        ("modality =", "not valid TOML"),
    ],
)
def test_a_broken_task_set_names_the_key(tmp_path, content, told):
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(SetClipError, match=told):
        load_task_set(str(path))
