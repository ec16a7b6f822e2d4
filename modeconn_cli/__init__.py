"""mcx: mode connectivity and per-sample training dynamics of neural networks."""

__version__ = "0.1.0"
