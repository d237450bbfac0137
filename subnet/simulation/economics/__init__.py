"""What each strategy earns: epochs of real records, scored by the production rules."""
