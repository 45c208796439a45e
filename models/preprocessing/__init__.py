"""Filters in front of standard codecs, and differentiable imitations of these, through which filters learn."""
