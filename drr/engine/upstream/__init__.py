"""Reasoners that run on another server, reached over HTTP."""
