"""The tables that `make coverage-table` prints."""

from __future__ import annotations

import pytest

TABLES = {
    "test_bare_weights_are_opened_by_the_networks_name": ("network", "parameters", "classes", "logits"),
    "test_all_groups_are_found_and_proven": (
        "network", "parameters", "groups", "units", "layers that stay", "outputs differ by"
    ),
}  # fmt: skip


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", [])
    for test, head in TABLES.items():
        found = [
            each.user_properties for each in passed if each.nodeid.split("::")[-1].startswith(f"{test}[")
        ]
        rows = sorted(value for properties in found for key, value in properties if key == "row")
        if rows:
            terminalreporter.section(test.removeprefix("test_").replace("_", " "))
            for row in (head, *rows):
                terminalreporter.write_line("| " + " | ".join(map(str, row)) + " |")
