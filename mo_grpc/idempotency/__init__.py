"""Retries take effect once: the answer to an idempotency key is stored, and sent again (docs/rules.md, R48 to R55)."""
