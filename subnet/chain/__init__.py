"""The chain client: reading and signing through substrate-interface, and registration."""
