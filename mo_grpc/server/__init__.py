"""The gRPC server: what it is made of, and what every call passes."""
