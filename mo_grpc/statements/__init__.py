"""Statements of customers: what happened to their debts in a period."""
