"""Differentiable imitations of standard codecs, and the bridge by which a filter learns through them."""
