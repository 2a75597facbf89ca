"""The `drr` command. The server package brings `drr serve`."""
