"""A realistic portfolio to try the service with: a lender's first year, made through the public API."""
