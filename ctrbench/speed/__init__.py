"""The training benchmark: speed, time per phase of a step, and lower bounds from the machine's roofline."""
