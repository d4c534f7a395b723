"""A page that recognises the digit you draw: picture -> digit as in MNIST -> networks -> JSON -> page."""
