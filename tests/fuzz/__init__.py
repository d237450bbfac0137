"""Decoders of strangers' bytes, as one table, under hypothesis and atheris."""
