"""The commands of `mcx curve`, one module each."""
