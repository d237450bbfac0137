"""How the shipped model is made: tokens, conversations, training, and checks before saving."""
