"""Prometheus metrics, health and readiness of a node, a bootstrap and a gateway."""
