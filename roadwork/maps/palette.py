"""Colours that people with a colour-vision deficiency can tell apart (Okabe and Ito, 2008)."""

# In the order of the splits.
SPLITS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
NO_SPLIT = "#8A8A8A"
DEPLOYMENT = "#222222"
MISSED = "#D55E00"
FALSE_ALARM = "#F0E442"
# From few to many: one hue, so that lightness alone tells the order.
DENSITY = ("#C6DBEF", "#9ECAE1", "#6BAED6", "#3182BD", "#08519C")
