"""The monitor page: what one process sees of the network, for people who only look."""
