"""Sound: readers of published clips, log-mel features, ECAPA-TDNN, and the tasks with them."""
