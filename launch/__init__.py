"""What stands between a command line and an experiment: checks of its config, and its run folder."""
