"""Reports: HTML, tables, curves."""
