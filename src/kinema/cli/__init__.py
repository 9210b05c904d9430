"""The `kinema` command: one file per command, each thin."""
