"""Files and folders, on this machine or at a URL."""
