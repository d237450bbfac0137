"""Single layers are read from the model's files and answer challenges as a hoster's do."""

import asyncio
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mesh.errors import LayerNotOnDisk, ModelError
from mesh.model.auditor import Auditor
from mesh.model.challenge import run_challenge_head, run_challenge_layer
from mesh.model.config import load_config
from mesh.model.files import ModelFolder, resolve_model_folder
from mesh.model.weights import load_shard
from tests.support.families import EXPERTS, PHI


@dataclass(frozen=True)
class Task:
    layer: int
    hidden: np.ndarray
    token_ids: np.ndarray | None = None
    head_rows: np.ndarray | None = None


HIDDEN = (np.random.default_rng(5).integers(-127, 128, (16, 48)) / 64).astype(np.float32)
TASKS = [
    Task(0, HIDDEN, token_ids=np.arange(16) * 7),
    *(Task(layer, HIDDEN) for layer in range(1, 6)),
    Task(6, HIDDEN, head_rows=np.array([130, 0, 77, 3])),
]


def open_auditor(folder, **options):
    return Auditor(resolve_model_folder(str(folder)), load_config(folder), **options)


def answer_as_hoster(folder, quant_type="none"):
    weights = load_shard(
        resolve_model_folder(str(folder)),
        load_config(folder),
        start=0,
        end=6,
        quant_type=quant_type,
    )
    x = torch.from_numpy(HIDDEN)
    ids = torch.from_numpy(TASKS[0].token_ids)
    with torch.inference_mode():
        answers = [run_challenge_layer(weights, 0, x, token_ids=ids)]
        answers += [run_challenge_layer(weights, layer, x) for layer in range(1, 6)]
        answers.append(run_challenge_head(weights, x, torch.from_numpy(TASKS[-1].head_rows)))
    return [answer.numpy() for answer in answers]


@pytest.mark.parametrize(
    ("quant_type", "changes"),
    [
        ("none", {}),
        ("none", {"dtype": "bfloat16", "max_shard_size": "50KB"}),
        ("none", {"tie_word_embeddings": True}),
        ("none", {"architecture": "Qwen3ForCausalLM"}),
        ("int8", {}),
        ("int4", {}),
        ("int4", {"tie_word_embeddings": True}),
        ("none", {"architecture": "Phi3ForCausalLM", **PHI}),
        ("none", {"architecture": "Qwen3MoeForCausalLM", "max_shard_size": "50KB", **EXPERTS}),
        ("int8", {"architecture": "Qwen3MoeForCausalLM", **EXPERTS}),
        ("int4", {"architecture": "Qwen3MoeForCausalLM", **EXPERTS}),
    ],
)
async def test_an_auditor_answers_every_layer_as_its_hosters_do(
    make_checkpoint, quant_type, changes
):
    folder = make_checkpoint(**changes)
    found = await open_auditor(folder, quant_type=quant_type).run_tasks(TASKS)
    for mine, theirs in zip(found, answer_as_hoster(folder, quant_type), strict=True):
        assert mine.dtype == np.float32
        assert np.linalg.norm(mine - theirs) < 4e-6 * np.linalg.norm(theirs)


def drop_tensors(folder, target, *fragments):
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    kept = {
        name: tensor
        for name, tensor in load_file(file).items()
        if not any(fragment in name for fragment in fragments)
    }
    save_file(kept, file)
    return target


async def test_a_layer_that_the_files_lack_is_named_and_the_others_are_audited(
    make_checkpoint, tmp_path
):
    folder = drop_tensors(make_checkpoint(), tmp_path / "part", "layers.3.mlp", "lm_head", "embed")
    auditor = open_auditor(folder)
    for layer in (0, 3, 6):
        with pytest.raises(LayerNotOnDisk, match=f"block {layer} ") as caught:
            await auditor.run_tasks([TASKS[layer]])
        assert caught.value.layer == layer
    assert len(await auditor.run_tasks([TASKS[2], TASKS[5]])) == 2


async def test_files_that_are_gone_while_the_node_runs_are_said(make_checkpoint, tmp_path):
    shutil.copytree(make_checkpoint(), tmp_path / "model")
    auditor = open_auditor(tmp_path / "model")
    await auditor.run_tasks([TASKS[1]])
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(LayerNotOnDisk):
        await auditor.run_tasks([TASKS[1]])


async def test_truncated_weights_are_a_model_error(make_checkpoint, tmp_path):
    shutil.copytree(make_checkpoint(), tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelError):
        await open_auditor(tmp_path / "model").run_tasks([TASKS[4]])


async def test_an_audit_downloads_nothing(make_checkpoint, tmp_path, monkeypatch):
    shutil.copytree(make_checkpoint(), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    downloaded = []
    monkeypatch.setattr("mesh.model.files._download", lambda *names: downloaded.append(names))
    folder = ModelFolder(tmp_path / "model", "owner/model", "main", hub_name="owner/model")
    with pytest.raises(LayerNotOnDisk):
        await Auditor(folder, load_config(folder.path)).run_tasks([TASKS[1]])
    assert downloaded == []


async def test_two_audits_at_once_take_turns(make_checkpoint):
    auditor = open_auditor(make_checkpoint())
    first, second = await asyncio.gather(auditor.run_tasks(TASKS[:3]), auditor.run_tasks(TASKS[:3]))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)
