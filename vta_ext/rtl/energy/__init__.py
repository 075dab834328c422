"""Area and switching energy of processing elements in cells of a library (Liberty files)."""
