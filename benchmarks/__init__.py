"""What the service costs, measured side by side with the limits (DESIGN §7): `make bench`."""
