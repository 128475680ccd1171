"""Results on disk: frozen results, atomic files and folders, fingerprints, run folders."""
