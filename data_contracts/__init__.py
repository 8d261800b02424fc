"""What a record is and what a data set must fulfil."""
