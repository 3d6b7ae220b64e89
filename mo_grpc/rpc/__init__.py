"""What every RPC uses: the caller, the access table, metadata, validation and conversions."""
