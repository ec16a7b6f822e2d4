"""What several commands found, told as one story."""
