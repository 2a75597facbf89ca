"""Settings of all tests: examples have no time limit of their own, because other work may use the cores."""

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
