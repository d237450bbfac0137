"""Public clients of the gateway, each in an environment of its own: ``make test-strangers``."""
