"""Maps of a dataset, its splits, its deployment and a model's errors: one file that opens offline."""
