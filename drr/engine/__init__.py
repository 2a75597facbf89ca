"""vLLM as Reasoner and as judge, in this process or on a server elsewhere. Only this room and the server know vLLM."""
