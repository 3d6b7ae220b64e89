"""MO over gRPC: a lender's back end."""
