"""What keeps a server from starting."""


class StartupError(Exception):
    """The server cannot start as asked; the message is for the operator."""


class EngineDiedError(Exception):
    """The Reasoner's engine has died while the server was serving."""

    def __str__(self) -> str:
        return "the Reasoner's engine has died; the log above says why"
