"""How fast training is, where its time goes, and how close that is to what the machine can do."""
