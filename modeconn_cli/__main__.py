"""`python -m modeconn_cli`, hence `torchrun -m modeconn_cli`."""

from modeconn_cli.cli.app import entry

if __name__ == "__main__":
    entry()
