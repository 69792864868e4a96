"""The command line: one file per command. All printing lives here."""
