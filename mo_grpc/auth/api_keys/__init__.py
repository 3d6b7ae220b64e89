"""API keys: programs that may call."""
