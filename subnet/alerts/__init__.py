"""Alerts of a node to the webhook that its operator names."""
