"""The one base class of every error a user can cause."""


class HyperSegNASError(Exception):
    """Bad input or an impossible request: one line that says what we got, what is allowed and what to do next."""
