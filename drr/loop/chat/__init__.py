"""One response of a Reasoner that only speaks chat: texts and whole requests in place of tokens and an engine."""
