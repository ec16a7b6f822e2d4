"""What is computed. Nothing here prints, reads the command line or knows how a table looks."""
