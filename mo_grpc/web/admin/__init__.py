"""The web admin: what operators see and do, with their own accounts and by the same RPCs as everybody."""
