"""Recomputes from the rows what must hold of them: `mo-grpc audit`."""
