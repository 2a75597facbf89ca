"""Real clients, unchanged, against a server: what of an answer arrives in each of them."""
