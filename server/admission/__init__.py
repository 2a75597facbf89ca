"""Who may use the server, how much at once, for how long; and what is said to whoever may not."""
