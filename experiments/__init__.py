"""Command-line programs, one for each system and tool."""
