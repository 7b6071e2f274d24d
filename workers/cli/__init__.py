"""The command line: `keyrepack --help`."""
