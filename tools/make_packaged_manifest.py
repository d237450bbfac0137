"""Makes the manifest of a model that a package brings (mesh/model/packaged.py).

python tools/make_packaged_manifest.py smollm2-135m-instruct

`mesh manifest` refuses a model at which a cheat stands nearer than 10 times the tolerance, because
such a model is not fit to be paid for. This writes the manifest all the same, with what was
measured in it: it is for demonstrations on a development chain. Takes minutes.
"""

from __future__ import annotations

import argparse

from consensus.protocol_params import MAINNET
from mesh.assets import get_packaged_manifest
from mesh.inference.threads import wait_passively


def main() -> None:
    """Calibrate, hash and write the manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    name = parser.parse_args().name
    # Before torch is loaded: calibration runs several processes.
    wait_passively()
    from mesh.errors import MarginTooSmall
    from mesh.model.calibrate import calibrate
    from mesh.model.config import load_config
    from mesh.model.files import resolve_known_model
    from mesh.model.margins import check_margins
    from subnet.hosting.manifest import (
        build_own_manifest,
        draw_calibration_tasks,
        make_shape,
    )

    folder = resolve_known_model(name)
    config = load_config(folder.source)
    calibration = calibrate(
        folder,
        config,
        draw_calibration_tasks(make_shape(config), MAINNET),
        fixed_point_bits=MAINNET.fixed_point_bits,
        value_bound_bits=MAINNET.value_bound_bits,
        quant_type="none",
    )
    try:
        check_margins(calibration, tolerance_bits=MAINNET.tolerance_bits)
    except MarginTooSmall as error:
        print(f"not fit to be paid for: {error}")
    made = build_own_manifest(folder, config, params=MAINNET, calibration=calibration)
    target = get_packaged_manifest(name)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(made.body)
    print(target, made.manifest_hash.hex())


if __name__ == "__main__":
    main()
