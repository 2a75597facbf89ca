"""What keeps a server from starting."""


class StartupError(Exception):
    """The server cannot start as asked; the message is for the operator."""
