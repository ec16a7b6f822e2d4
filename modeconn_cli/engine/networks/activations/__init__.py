"""Units that a sample leaves inactive: where they are looked at, along which axis, and how often."""
