"""What the service costs, measured in one run with the limit of each: `make bench`."""
