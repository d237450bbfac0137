"""A subnet's own scorer and probe: run in a process of their own, integers in, integers out."""
