"""Reading weight files into the trunk's own names. Nothing here imports a detector."""
