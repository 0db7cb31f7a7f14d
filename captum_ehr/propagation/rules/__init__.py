"""One rule, one small place: the formula, its source, and the code for it."""
