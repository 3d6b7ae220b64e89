"""Recomputes from the rows what must hold of them (DESIGN §3)."""
