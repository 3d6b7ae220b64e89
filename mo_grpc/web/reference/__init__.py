"""The OpenAPI document, made of the protos: their comments, rules, bindings and errors (`make generate`)."""
