"""The commands of `mcx lmc`, one module each."""
