"""What every call passes on its way in: errors, then authentication, then validation (AIP-211: permission comes first)."""
