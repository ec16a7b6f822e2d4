"""Time against plain references: `python -m bench [NAME …] [--pairs N]`. Not part of the installed package."""
