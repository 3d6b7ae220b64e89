"""Payments, spread over a customer's loans."""
