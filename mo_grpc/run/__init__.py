"""What keeps the processes of a machine running: `up`, and the supervisor of the workers."""
