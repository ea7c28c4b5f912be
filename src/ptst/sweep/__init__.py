"""The grid: which cells it has, what is planned, what runs, how far it is."""
