"""Picture files, the same for every command: which there are, what they are called, how they are read and written."""
