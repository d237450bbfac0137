"""Calibrations for manifests of test models, without measuring."""

from mesh.model.margins import Calibration


def make_calibration(num_layers: int, **changes: object) -> Calibration:
    """Return what a well-behaved model of so many layers would be measured as."""
    count = num_layers + 1
    fields: dict[str, object] = {
        "scales": (4,) * count,
        "honest": (10**6,) * count,
        "cheats": {"int8": (10**10,) * count, "skipped": (10**12,) * count},
        "variants": ("threads-1", "threads-2"),
    }
    return Calibration(**{**fields, **changes})  # type: ignore[arg-type]
