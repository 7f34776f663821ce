"""Controls of methods: runs that show how much of a gain is due to domains, and how much to cost."""
