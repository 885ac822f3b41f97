"""Commands with a module of their own. `cli` joins them to the others; each is a function of its options."""
