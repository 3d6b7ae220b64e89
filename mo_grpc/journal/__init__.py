"""The journal: what happened to customers, loans and payments, in order."""
