"""`python -m mo_grpc`: the same as `mo-grpc`."""

from mo_grpc.cli.app import main

main()
