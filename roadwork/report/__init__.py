"""`report.html`: all that a run shows, in one file that opens offline."""
