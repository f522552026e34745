"""What the operating system and the libraries below give: errors, processes, files, memory, the registry."""
