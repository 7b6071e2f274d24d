"""The version of this program, as processes and metrics report it."""

from importlib.metadata import version

VERSION = version("keyrepack")
