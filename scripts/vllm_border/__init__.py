"""Reads vLLM's sources without running them, and compares them with what our code touches. See ../check_vllm.py."""
