"""The version of this package, in one place: the build, the command line and the records of a run read it here."""

VERSION = "0.2.0"
