"""Makers of damaged and hostile files; none is stored."""
