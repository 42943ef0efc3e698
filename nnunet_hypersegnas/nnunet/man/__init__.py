"""What MAN's scalars depend on in a volume (paper section 4.2, "HyperNet Analysis", Eq. 6 and 7, Figure 6)."""
