"""The command line: thin commands over the rooms. stdout is the result, stderr is log and progress."""
