"""Load tests and accuracy-token benchmarks; they speak HTTP to a server and nothing else."""
