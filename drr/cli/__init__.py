"""The `drr` command. `drr serve` is not here: the server brings it."""
