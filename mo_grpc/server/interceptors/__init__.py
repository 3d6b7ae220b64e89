"""What every call passes on its way in: its caller is admitted, then its request checked (AIP-211: permission comes first)."""
