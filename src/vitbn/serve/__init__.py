"""A page that recognises the digit you draw: picture -> ink -> networks -> JSON -> page; knows nothing of training."""
