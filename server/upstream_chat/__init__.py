"""A server in front of a Reasoner of which only chat completions are served elsewhere."""
