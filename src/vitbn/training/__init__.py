"""Training one configuration and keeping its study on disk. Importing the package itself imports no torch."""
