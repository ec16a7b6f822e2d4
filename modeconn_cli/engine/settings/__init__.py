"""Every setting of every command, torch-free. One dataclass per command, one field per setting."""
