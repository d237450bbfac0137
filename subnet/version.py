"""What this program calls itself to its peers."""

from importlib.metadata import PackageNotFoundError, version

try:
    SOFTWARE = f"mesh/{version('mesh-subnet')}"
except PackageNotFoundError:
    # Run from a source tree that was never installed.
    SOFTWARE = "mesh/source"
