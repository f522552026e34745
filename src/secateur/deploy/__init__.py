"""Other runtimes: formats of exported files, export, running them, and verification."""
