"""Bulk import of customers from text files."""
