"""Networks made at random, and whether every group of units that is found in one is a symmetry of it."""
