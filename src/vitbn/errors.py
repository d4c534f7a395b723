"""The one exception whose message is meant for the person at the keyboard."""


class InputError(ValueError):
    """Bad input: one line that names the key or file, the value, and the choices or the remedy."""
