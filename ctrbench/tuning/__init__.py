"""Tuning: trials of settings, chosen on dev."""
