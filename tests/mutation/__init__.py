"""Single rules broken one at a time, to see which tests notice."""
