"""The trap: what looks like a Django admin, lets nobody in, and remembers who tried (DESIGN §5)."""
