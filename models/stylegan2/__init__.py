"""Generators whose styles can be set layer by layer: StyleGAN2, MobileStyleGAN, and the encoder that inverts them."""
