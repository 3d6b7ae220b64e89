"""Loans that draw on a credit line."""
