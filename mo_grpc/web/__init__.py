"""The pages: the admin, the API's reference, and the honeypot; served by Starlette, in a process of their own behind Envoy."""
