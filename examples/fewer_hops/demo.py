"""What two epochs of this subnet pay, on a network of real processes. After pip install:

pip install ./examples/fewer_hops && python examples/fewer_hops/demo.py
"""

import subprocess
import sys

LINE = "localnet --hosters 3 --validators 1 --epochs 2 --scorer fewer-hops --probe fewer-hops"

if __name__ == "__main__":
    command = [sys.executable, "-m", "subnet.cli.mesh", *LINE.split(), *sys.argv[1:]]
    raise SystemExit(subprocess.run(command, check=False).returncode)
