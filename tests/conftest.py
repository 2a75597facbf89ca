"""Settings of all tests: examples have no time limit of their own, because other work may use the cores."""

import logging

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def usual_logs() -> None:
    """The project's loggers as they are where nothing has set up logs: servers that other tests run in this process
    set them up for good."""
    logging.disable(logging.NOTSET)
    for name in [name for name in logging.root.manager.loggerDict if name == "drr" or name.startswith("drr.")]:
        logger = logging.getLogger(name)
        logger.disabled, logger.propagate = False, True
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
