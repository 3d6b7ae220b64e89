"""The web admin: what operators see and do, as users of their own and by the same RPCs as everybody."""
