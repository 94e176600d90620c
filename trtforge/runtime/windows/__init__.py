"""The window loop: windows in, labels or probabilities of the whole volume out, in memory that it does not decide."""
