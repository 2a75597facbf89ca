"""What two different answers to one question say about each other: at most one of them is right."""


def first_is_right(first: float, second: float) -> float:
    """The probability that the first of two different answers is right, where a judge gives them these probabilities of
    being right, each by itself. That both are right is ruled out; else they count as independent."""
    only_first, only_second = first * (1.0 - second), second * (1.0 - first)
    neither = (1.0 - first) * (1.0 - second)
    possible = only_first + only_second + neither
    return only_first / possible if possible > 0.0 else 0.5
