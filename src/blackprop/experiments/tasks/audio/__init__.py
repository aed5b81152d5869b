"""Sound: readers of published clips, log-mel bands, ECAPA-TDNN, and the tasks made of them."""
