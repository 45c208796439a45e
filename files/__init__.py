"""What ``codec.py`` does with files: find, read, code, analyse, write."""
