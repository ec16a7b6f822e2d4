"""Mode connectivity: paths between networks, the networks on them, and how far they rise above their ends."""
