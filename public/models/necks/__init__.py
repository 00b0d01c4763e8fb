"""Networks that mix the levels of a backbone."""
