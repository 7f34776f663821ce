"""The synthetic twin of IAAC."""
