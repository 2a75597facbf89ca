"""Rules with a stated risk: stopping rules replayed on records, tested, chosen, and the promise checked."""
