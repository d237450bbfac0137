"""Which models can be served by name from this machine, and what is wrong with the others.

Looked at are the shipped model, models of packages, folders and GGUF files below given
directories, and the Hugging Face cache. Only headers and configurations are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.assets import SHIPPED_MODEL_NAME, shipped_model_path
from mesh.errors import ModelError
from mesh.model.config import load_config
from mesh.model.files import GGUF_SUFFIX, resolve_model_folder
from mesh.model.packaged import PACKAGED_MODELS, PackagedModel

MAX_DEPTH = 2
"""A folder of folders of models is looked into, no deeper."""
MAX_ENTRIES = 4096
MAX_FOUND = 512


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model. ``name`` is what MODEL takes; ``problem`` says why it cannot be served.

    ``source`` is ``shipped``, ``package``, ``folder``, ``gguf`` or ``hub``. The numbers are None
    where the files are not there to be read. ``size_bytes`` counts weights on this machine.
    """

    name: str
    source: str
    size_bytes: int
    architecture: str | None = None
    num_layers: int | None = None
    max_context: int | None = None
    note: str = ""
    problem: str | None = None


def list_known_models(directories: Sequence[Path]) -> list[KnownModel]:
    """Return the models, the shipped one first. Directories that cannot be read are left out."""
    found = [_describe(SHIPPED_MODEL_NAME, "shipped", shipped_model_path())]
    found += [_describe_packaged(model) for model in PACKAGED_MODELS.values()]
    for directory in directories:
        for path in _find_local(directory, MAX_DEPTH):
            found.append(_describe(str(path), "gguf" if path.is_file() else "folder", path))
            if len(found) >= MAX_FOUND:
                return found
    return (found + list(_list_hub()))[:MAX_FOUND]


def _describe_packaged(model: PackagedModel) -> KnownModel:
    if model.is_downloaded:
        return _describe(model.name, "package", model.path, note=model.licence)
    note = f"{model.licence}; {model.size_mb} MB are downloaded when it is used"
    return KnownModel(model.name, "package", 0, note=note)


def _describe(name: str, source: str, path: Path, *, note: str = "") -> KnownModel:
    """Read what a model says about itself; what is wrong with it becomes its ``problem``."""
    size = _measure(path)
    try:
        config = load_config(resolve_model_folder(str(path)).source)
    except ModelError as error:
        return KnownModel(name, source, size, note=note, problem=str(error))
    problem = None if size else "its weights are not here"
    return KnownModel(
        name,
        source,
        size,
        architecture=config.architecture,
        num_layers=config.num_layers,
        max_context=config.max_context,
        note=note,
        problem=problem,
    )


def _measure(path: Path) -> int:
    """Return the bytes of a model's weights."""
    files = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.gguf")]
    return sum(file.stat().st_size for file in files if file.exists())


def _find_local(directory: Path, depth: int) -> Iterator[Path]:
    """Yield model folders and GGUF files, by name; a model's folder is not looked into."""
    if (directory / "config.json").is_file() and any(directory.glob("*.safetensors")):
        yield directory
        return
    try:
        entries = sorted(directory.iterdir())[:MAX_ENTRIES]
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.suffix == GGUF_SUFFIX and entry.is_file():
            yield entry
        elif depth and entry.is_dir() and not entry.is_symlink():
            yield from _find_local(entry, depth - 1)


def _list_hub() -> Iterator[KnownModel]:
    """Yield what the Hugging Face cache has, as HF_HOME and HF_HUB_CACHE say where it is."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    for repository in sorted(cache.repos, key=lambda repository: repository.repo_id):
        if repository.repo_type != "model" or not repository.revisions:
            continue
        latest = max(repository.revisions, key=lambda revision: revision.last_modified)
        if (latest.snapshot_path / "config.json").is_file():
            yield _describe(repository.repo_id, "hub", latest.snapshot_path)
