"""The commands of `mcx csl`: cumulative sample loss and learning time."""
