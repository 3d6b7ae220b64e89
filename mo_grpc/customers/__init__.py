"""Customers and their credit lines."""
