"""Tables, pages, plots and progress for people to look at."""
