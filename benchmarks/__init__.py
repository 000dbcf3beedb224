"""Each module measures one room against the usual tools and prints one table of ratios."""
