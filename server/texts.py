"""What a server says in its own words, unless it is told other ones."""

SEPARATOR = "\n\n[this attempt was rejected; here is another]\n\n"
"""Between a rejected attempt and the next."""

REFUSAL = "I am not sure enough of any answer to give one."
"""Where the judge believes no attempt."""
