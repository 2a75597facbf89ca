"""Clients: they speak HTTP to a server and nothing else."""
