"""Surgery passes: one file each, every one a contract (see ``base``)."""
