"""`mcx correlate`: every per-sample metric joined by sample id, correlated, grouped and drawn."""
