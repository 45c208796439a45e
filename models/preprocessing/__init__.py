"""Filters in front of codecs."""
