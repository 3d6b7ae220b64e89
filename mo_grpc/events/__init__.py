"""The record of who logged in, what was changed of keys and people, and which calls were refused (DESIGN §5, §10)."""
