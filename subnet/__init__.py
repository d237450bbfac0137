"""The node: chain, epoch loop, journal and command line; the one place that joins the others."""
