"""The pages: the API's reference, and the trap; served by Starlette, in a process of their own behind Envoy."""
