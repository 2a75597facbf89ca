"""The HTTP side: vLLM's own OpenAI server with the thinking loop between its app and its engine."""
