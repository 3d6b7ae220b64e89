"""Stored files: uploaded ones, and those that an import reads."""
