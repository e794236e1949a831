"""One file, one stage: build configs, call packages, write the artefact."""
