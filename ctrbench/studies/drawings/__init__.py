"""Study drawings: the form in which a study shows its results, one file each."""
