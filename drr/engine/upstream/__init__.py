<<<<<<< HEAD
"""Reasoners that run on another server, reached over HTTP."""
=======
"""Reasoners that other servers run."""
>>>>>>> 8b3a823
