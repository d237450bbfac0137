"""Nodes with other plug-ins than the subnet's manifest names say so at their start."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from consensus.roster import compute_network_id
from mesh.assets import shipped_model_path
from mesh.errors import (
    ModelError,
    PluginFailed,
    PluginMismatch,
    PluginNotFound,
    UnknownArchitecture,
)
from mesh.model.config import load_config, parse_config
from mesh.model.files import resolve_model_folder
from mesh.model.manifest import add_plugins, decode_manifest, encode_canonical_json
from mesh.plugins import PluginKind, find_plugin
from subnet.hosting.manifest import MANIFEST_FILES, load_own_manifest
from subnet.node.manifest import check_plugins
from subnet.plugins.chosen import find_stamps, open_kept_scorer, open_plugins

SHIPPED = load_own_manifest(resolve_model_folder(str(shipped_model_path())))
MODEL = load_config(shipped_model_path())
SCORER = "def score(hosters):\n    return [{} for _ in hosters]\n"


def plant(install, pay=0, **changes):
    install("planted", SCORER.format(pay), scorers="planted = planted:score", **changes)


def state():
    """Return the shipped model's manifest with the planted scorer."""
    return add_plugins(SHIPPED, find_stamps(MODEL.architecture, scorer="planted"))


def check(manifest, data_dir: Path):
    prepared = SimpleNamespace(model=MODEL, data_dir=data_dir)
    return check_plugins(prepared, manifest)


def test_a_manifest_without_plug_ins_is_the_one_that_it_was():
    assert add_plugins(SHIPPED, {}).body == SHIPPED.body and SHIPPED.plugins == {}


def test_two_versions_of_a_scorer_are_two_networks(install):
    plant(install, 0)
    one = state()
    plant(install, 1)
    other = state()
    assert one.plugins[PluginKind.SCORER].version == other.plugins[PluginKind.SCORER].version
    ids = {compute_network_id(bytes(32), 1, m.manifest_hash) for m in (one, other, SHIPPED)}
    assert len(ids) == 3


def test_a_node_with_the_same_code_starts_and_keeps_the_manifest(install, tmp_path):
    plant(install)
    manifest = state()
    assert check(manifest, tmp_path) == manifest.plugins
    assert (tmp_path / MANIFEST_FILES["none"]).read_bytes() == manifest.body


def test_a_node_with_other_code_says_so_at_its_start(install, tmp_path):
    plant(install, 0)
    manifest = state()
    plant(install, 1)
    with pytest.raises(PluginMismatch, match="names version 1.0 with digest .*, this node has 1.0"):
        check(manifest, tmp_path)


def test_a_node_with_another_version_says_so_at_its_start(install, tmp_path):
    plant(install)
    manifest = state()
    plant(install, version="2.0")
    with pytest.raises(PluginMismatch, match="version 1.0 .* this node has 2.0"):
        check(manifest, tmp_path)


def test_a_node_without_the_plug_in_says_so_at_its_start(install, tmp_path):
    plant(install)
    manifest = state()
    install("planted", "", scorers="another = planted:score")
    with pytest.raises(PluginMismatch, match="this node has no such plug-in"):
        check(manifest, tmp_path)


def test_a_name_that_is_not_installed_names_what_is(install):
    plant(install)
    with pytest.raises(PluginNotFound, match="installed are: planted"):
        find_stamps(MODEL.architecture, scorer="plantde")


def test_two_packages_of_one_name_are_refused(install):
    plant(install)
    install("second", SCORER, scorers="planted = second:score")
    with pytest.raises(PluginFailed, match="two installed packages"):
        find_plugin(PluginKind.SCORER, "planted")


@pytest.mark.parametrize(
    "plugins",
    [
        {"scorer": {"name": "a", "version": "1"}},
        {"scorer": {"name": "a", "version": "1", "digest": "00"}},
        {"scorer": {"name": "a" * 65, "version": "1", "digest": "00" * 32}},
        {"jury": {"name": "a", "version": "1", "digest": "00" * 32}},
        {"scorer": "a"},
        [1],
    ],
)
def test_a_manifest_with_malformed_plug_ins_is_refused(plugins):
    import json

    body = encode_canonical_json(json.loads(SHIPPED.body) | {"plugins": plugins})
    with pytest.raises(ModelError, match="malformed"):
        decode_manifest(body)


def test_the_scorer_of_a_kept_manifest_is_what_why_computes_with(install, tmp_path):
    plant(install, 5)
    check(state(), tmp_path)
    with open_kept_scorer(tmp_path / MANIFEST_FILES["none"]) as scorer:
        assert scorer is not None and scorer([]) == []
    with open_kept_scorer(tmp_path / "none") as scorer:
        assert scorer is None


def test_a_scorer_that_cannot_be_imported_ends_the_start(install):
    install("planted", "raise RuntimeError('x')", scorers="planted = planted:score")
    with pytest.raises(PluginFailed, match="RuntimeError"), open_plugins(state().plugins):
        pass


FAMILY = """
from mesh.model.family import Family, Traits

PLANTED = Family("PlantedForCausalLM", lambda fields: Traits(qkv_bias=True))
"""
FIELDS = {
    "architectures": ["PlantedForCausalLM"],
    "num_attention_heads": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}


def plant_family(install, code=FAMILY):
    install("family", code, families="PlantedForCausalLM = family:PLANTED")


def test_a_family_of_a_plug_in_reads_its_models(install):
    plant_family(install)
    assert parse_config(FIELDS).qkv_bias is True


def test_the_manifest_must_name_the_family_of_a_plug_in(install, tmp_path):
    plant_family(install)
    model = parse_config(FIELDS)
    prepared = SimpleNamespace(model=model, data_dir=tmp_path)
    with pytest.raises(PluginMismatch, match="names no such plug-in"):
        check_plugins(prepared, SHIPPED)
    named = add_plugins(SHIPPED, find_stamps(model.architecture))
    assert check_plugins(prepared, named).keys() == {PluginKind.FAMILY}


@pytest.mark.parametrize(
    "code, reason",
    [
        ("PLANTED = 1\n", "its entry point is a int, not a Family"),
        (FAMILY.replace("PlantedFor", "OtherFor"), "it is for OtherForCausalLM by its own word"),
        ("raise KeyError('x')\n", "it raised KeyError"),
    ],
)
def test_a_family_that_is_none_is_named_with_its_reason(install, code, reason):
    plant_family(install, code)
    with pytest.raises(PluginFailed, match=reason):
        parse_config(FIELDS)


def test_an_unknown_architecture_names_the_families_of_plug_ins_too(install):
    plant_family(install)
    with pytest.raises(UnknownArchitecture, match="PlantedForCausalLM"):
        parse_config(FIELDS | {"architectures": ["NoneForCausalLM"]})
