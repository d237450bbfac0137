"""A validator audits single layers of the model that the manifest names, and no other."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from consensus.protocol_params import MAINNET
from consensus.types import LayerRange
from mesh.assets import shipped_model_path
from mesh.errors import LayerNotOnDisk, ManifestMismatch
from mesh.model.config import load_config
from mesh.model.files import resolve_model_folder
from subnet.epoch.hoster import build_tasks
from subnet.epoch.interfaces import Inference
from subnet.hosting.auditing import AuditInference
from subnet.hosting.manifest import load_own_manifest, make_shape

SHIPPED = resolve_model_folder(str(shipped_model_path()))
MODEL = load_config(SHIPPED.path)
MANIFEST = load_own_manifest(SHIPPED)
TASKS = build_tasks(b"s" * 32, LayerRange(0, 8), make_shape(MODEL), MAINNET)


def open_audit(folder=SHIPPED) -> Inference:
    return AuditInference(folder, MODEL, MANIFEST, params=MAINNET)


async def test_every_layer_and_the_head_are_audited():
    audit = open_audit()
    assert audit.layers == LayerRange(0, 8)
    answers = [await audit.run_tasks([task]) for task in TASKS]
    assert [len(answer) for (answer,) in answers] == [128] * 8 + [256]
    for scale, (answer,) in zip(MANIFEST.calibration.scales, answers, strict=True):
        rms = float(np.sqrt(np.mean(np.square(answer, dtype=np.float64))))
        assert 2.0 ** -(20 + scale) < 2.0**-22 * rms
        assert float(np.abs(answer).max()) * 2.0**scale < 2**11


def change_file(target, change):
    shutil.copytree(SHIPPED.path, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors")
    return resolve_model_folder(str(target))


async def test_other_weights_than_the_subnets_do_not_audit(tmp_path):
    def change(tensors):
        tensors["model.layers.4.mlp.up_proj.weight"][3, 3] += 1
        tensors["lm_head.weight"][3, 3] += 1

    audit = open_audit(change_file(tmp_path / "changed", change))
    for layer in (4, 8):
        with pytest.raises(ManifestMismatch, match="SHA-256"):
            await audit.run_tasks([TASKS[layer]])
    await audit.run_tasks([TASKS[3]])


async def test_a_layer_that_the_files_lack_is_named(tmp_path):
    def remove(tensors):
        del tensors["model.layers.5.self_attn.o_proj.weight"]

    audit = open_audit(change_file(tmp_path / "part", remove))
    with pytest.raises(LayerNotOnDisk) as caught:
        await audit.run_tasks([TASKS[5]])
    assert caught.value.layer == 5
    await audit.run_tasks([TASKS[6]])
