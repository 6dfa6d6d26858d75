"""The `halfmap` command: flags made from parameters, the live line, exit codes."""
