"""The honeypot: it looks like a Django admin, lets nobody in, and records who tried to log in."""
