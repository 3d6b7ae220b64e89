"""Retries that take effect once: what a caller's key was answered is kept, and answered again (DESIGN §4)."""
