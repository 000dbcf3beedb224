"""From a run to a folder that its consumer loads without a surprise."""
