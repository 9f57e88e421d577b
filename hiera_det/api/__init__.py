"""What a caller in Python is given: trainings, runs, evaluation; the commands fill the same settings."""
