"""Peer-to-peer hosts, models and inference. Nothing here knows of epochs or chains."""
