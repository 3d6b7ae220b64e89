"""A believable portfolio for whoever tries the service: a lender's first year, told through the public API."""
