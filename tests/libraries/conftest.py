"""The table that `make coverage-table` prints."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = [report.user_properties for report in terminalreporter.stats.get("passed", [])]
    rows = sorted(value for properties in passed for key, value in properties if key == "row")
    if rows:
        terminalreporter.section("bare weights, opened by name")
        for row in (("network", "parameters", "classes", "logits"), *rows):
            terminalreporter.write_line("| " + " | ".join(map(str, row)) + " |")
