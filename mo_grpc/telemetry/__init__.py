"""What the service says about itself while it runs: nothing here knows a customer, an amount or a secret."""
